"""FLUX, CogVideoX, LTX, Cosmos and Hunyuan as classes, given what diffusers' pipelines give."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video
from safetensors.torch import save_file
from small_backbones import SmallModels
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, LlamaModel, T5EncoderModel

from vega3d.pipeline.backbones.checkpoints import model_facts
from vega3d.pipeline.backbones.cogvideox import noise_level
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.ltx import vae_tally
from vega3d.pipeline.backbones.registry import family
from vega3d.pipeline.backbones.small.pictures import write_flux
from vega3d.pipeline.backbones.small.videos import LTX_LATER, write_cogvideox, write_ltx
from vega3d.pipeline.errors import CheckpointError

SIZE = (64, 96)
VIEWS = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
IDS = ["a", "b"]
PIXELS = torch.from_numpy(VIEWS).permute(0, 3, 1, 2).float() / 255 * 2 - 1
NOISE = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(1))


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def outputs(model: nn.Module, modules: list[nn.Module], *args: Any, **kwargs: Any) -> list[Any]:  # noqa: ANN401
    """Run the whole model and keep what some modules give back."""
    kept: list[Any] = []
    hooks = [m.register_forward_hook(lambda *at: kept.append(at[2])) for m in modules]
    with torch.no_grad():
        model(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return kept


def check_file(
    name: str, folder: Path, place: Path, returned: dict[str, Any], **settings: object
) -> None:
    """A file of what `encode_prompt` returns is the prompt that the model's own encoders give."""
    held = {key: values.contiguous() for key, values in returned.items()}
    save_file(held, place / "prompt.safetensors")
    config = family(name)(model=str(folder), **settings)
    found, expected = config.prompt(place / "prompt.safetensors"), config.prompt(None)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key].shape == values.shape
        np.testing.assert_allclose(found[key], values, atol=0.05)  # encoded in bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
def test_flux_is_what_its_pipeline_gives_the_class(tmp_path: Path, guided: bool) -> None:
    write_flux(tmp_path, guidance_embeds=guided)
    model = diffusers.FluxTransformer2DModel.from_pretrained(tmp_path / "transformer")
    vae = diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae")
    pipe = diffusers.FluxPipeline(
        scheduler=None,
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(tmp_path / "text_encoder"),
        tokenizer=AutoTokenizer.from_pretrained(tmp_path / "tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(
            tmp_path / "text_encoder_2", torch_dtype=torch.bfloat16
        ),
        tokenizer_2=AutoTokenizer.from_pretrained(tmp_path / "tokenizer_2"),
        transformer=model,
    )
    pipe.tokenizer_max_length = 12
    with torch.no_grad():
        rows, pooled, txt_ids = pipe.encode_prompt("", "", max_sequence_length=8)
        latents = (vae.encode(PIXELS).latent_dist.mode() - 0.1159) * 0.3611
    told = {"prompt_embeds": rows, "pooled_prompt_embeds": pooled}
    check_file("flux", tmp_path, tmp_path, told, text_rows=8)
    noisy = pipe._pack_latents(0.7 * latents + 0.3 * NOISE, 2, 16, 8, 12)
    kept = outputs(
        model,
        [*model.transformer_blocks, *model.single_transformer_blocks],
        hidden_states=noisy,
        timestep=torch.tensor([0.3, 0.3]),
        guidance=torch.tensor([3.5, 3.5]) if guided else None,
        encoder_hidden_states=rows.float().expand(2, -1, -1),
        pooled_projections=pooled.float().expand(2, -1),
        txt_ids=txt_ids.float(),
        img_ids=pipe._prepare_latent_image_ids(2, 4, 6, "cpu", torch.float32),
    )
    backbone = load_backbone(
        "flux", model=str(tmp_path), blocks=(0, 1, 2, 3), resolution=SIZE, text_rows=8
    )
    found = backbone.encode(VIEWS, scene_id="room", view_ids=IDS, noise=NOISE)
    for block in range(4):
        expected = kept[block][1].reshape(2, 4, 6, 48)  # the text's stream comes first
        assert error(found[f"k300_b{block}"], expected) < 1e-5


@pytest.mark.parametrize("rotary", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_cogvideox_is_what_its_pipeline_gives_the_class(tmp_path: Path, rotary: bool) -> None:
    write_cogvideox(tmp_path, use_rotary_positional_embeddings=rotary)
    model = diffusers.CogVideoXTransformer3DModel.from_pretrained(tmp_path / "transformer")
    vae = diffusers.AutoencoderKLCogVideoX.from_pretrained(tmp_path / "vae")
    scheduler = diffusers.CogVideoXDDIMScheduler(
        snr_shift_scale=1.0 if rotary else 3.0, rescale_betas_zero_snr=True
    )
    pipe = diffusers.CogVideoXPipeline(
        tokenizer=AutoTokenizer.from_pretrained(tmp_path / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(
            tmp_path / "text_encoder", torch_dtype=torch.bfloat16
        ),
        vae=vae,
        transformer=model,
        scheduler=scheduler,
    )
    steps = torch.tensor([300, 300])
    with torch.no_grad():
        rows, _ = pipe.encode_prompt("", do_classifier_free_guidance=False)
        latents = vae.encode(PIXELS[:, :, None]).latent_dist.mode()[:, :, 0] * 1.15
    check_file("cogvideox", tmp_path, tmp_path, {"prompt_embeds": rows})
    turned = pipe._prepare_rotary_positional_embeddings(*SIZE, 1, "cpu") if rotary else None
    kept = outputs(
        model,
        [model.transformer_blocks[1], model.transformer_blocks[3]],
        hidden_states=scheduler.add_noise(latents, NOISE, steps)[:, None],
        encoder_hidden_states=rows.float().expand(2, -1, -1),
        timestep=steps,
        image_rotary_emb=turned,
    )
    backbone = load_backbone("cogvideox", model=str(tmp_path), blocks=(1, 3), resolution=SIZE)
    found = backbone.encode(VIEWS, scene_id="room", view_ids=IDS, noise=NOISE)
    for block, own in zip((1, 3), kept, strict=True):
        assert error(found[f"k300_b{block}"], own[0].reshape(2, 4, 6, 32)) < 1e-5


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_cogvideox_noise_is_its_schedulers(shift: float) -> None:
    scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=shift, rescale_betas_zero_snr=True)
    for step in (0, 300, 999):
        kept = float(scheduler.alphas_cumprod[step]) ** 0.5
        assert noise_level(step, shift) == (
            pytest.approx(kept, abs=1e-6),
            pytest.approx((1 - kept**2) ** 0.5, abs=1e-6),
        )


@pytest.mark.parametrize(
    ("name", "part", "differing", "told"),
    [
        ("cogvideox", "transformer", {"patch_size_t": 2}, r"patches in time \(CogVideoX 1.5\)"),
        ("cogvideox", "transformer", {"use_learned_positional_embeddings": True}, "image to video"),
        ("ltx-video", "vae", {"down_block_types": ["Other3D"] * 4}, "must be LTXVideoDownBlock3D"),
        ("ltx-video", "transformer", {"patch_size": 2}, "patch_size must be 1, found 2"),
        ("wan2.2-i2v", "transformer", {"image_dim": 1280}, "no CLIP tokens, found in_channels 36"),
    ],
)
def test_a_version_that_is_not_read_is_named(
    name: str, part: str, differing: dict[str, object], told: str
) -> None:
    config = family(name)()
    configs = config.published[config.model]
    with pytest.raises(CheckpointError, match=told):
        config.describe({**configs, part: {**configs[part], **differing}})


def test_a_prompt_of_another_length_is_refused(models: SmallModels) -> None:
    rows = np.zeros((5, 32), np.float32)
    with pytest.raises(ValueError, match="must be 226 rows of 32 numbers"):
        models.load("cogvideox", prompt_embeds=rows)


@pytest.mark.parametrize("later", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ltx_is_what_its_pipeline_gives_the_class(tmp_path: Path, later: bool) -> None:
    """Later ones, from 0.9.5 on, have another VAE, and positions by another pipeline."""
    folder = tmp_path / "model"
    write_ltx(folder, **(LTX_LATER if later else {}))
    model = diffusers.LTXVideoTransformer3DModel.from_pretrained(folder / "transformer")
    vae = diffusers.AutoencoderKLLTXVideo.from_pretrained(folder / "vae")
    pipe = diffusers.LTXPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=T5EncoderModel.from_pretrained(
            folder / "text_encoder", torch_dtype=torch.bfloat16
        ),
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        transformer=model,
    )
    noise = torch.randn(2, 16, 2, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rows, mask, _, _ = pipe.encode_prompt("", do_classifier_free_guidance=False)
        mean = vae.encode(PIXELS[:, :, None]).latent_dist.mode()
    told = {"prompt_embeds": rows, "prompt_attention_mask": mask}
    check_file("ltx-video", folder, tmp_path, told)
    ids = diffusers.LTXConditionPipeline._prepare_video_ids(2, 1, 2, 3, device="cpu")
    coords = diffusers.LTXConditionPipeline._scale_video_ids(
        ids, scale_factor=32, scale_factor_t=8, frame_index=0, device="cpu"
    ).float()
    coords[:, 0] /= 25
    latents = pipe._normalize_latents(mean, vae.latents_mean, vae.latents_std)
    kept = outputs(
        model,
        [model.transformer_blocks[1], model.transformer_blocks[3]],
        hidden_states=pipe._pack_latents(0.7 * latents + 0.3 * noise[:, :, None]),
        encoder_hidden_states=rows.float().expand(2, -1, -1),
        timestep=torch.tensor([300.0, 300.0]),
        encoder_attention_mask=mask.expand(2, -1),
        num_frames=1,
        height=2,
        width=3,
        **({"video_coords": coords} if later else {"rope_interpolation_scale": (8 / 25, 32, 32)}),
    )
    settings = {"model": str(folder), "blocks": (1, 3), "resolution": SIZE}
    facts = model_facts(family("ltx-video")(**settings))
    backbone = load_backbone("ltx-video", **settings)
    encoder = vae.encoder
    assert sum(p.numel() for p in encoder.parameters()) == vae_tally(vae.config, SIZE).parameters
    assert facts.parameters > sum(p.numel() for p in encoder.parameters())
    found = backbone.encode(VIEWS, scene_id="room", view_ids=IDS, noise=noise)
    for block, own in zip((1, 3), kept, strict=True):
        assert error(found[f"k300_b{block}"], own.reshape(2, 2, 3, 48)) < 1e-5


@pytest.mark.slow
def test_cosmos_is_what_its_pipeline_gives_the_class(
    models: SmallModels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The class resizes a mask of zeros with torchvision, which is not here: it stays one."""
    from diffusers.models.transformers import transformer_cosmos

    def smaller(mask: Tensor, size: list[int], interpolation: object) -> Tensor:
        return mask[..., : size[0], : size[1]]

    resize = SimpleNamespace(resize=smaller)
    stand_in = SimpleNamespace(functional=resize, InterpolationMode=SimpleNamespace(NEAREST=0))
    monkeypatch.setattr(transformer_cosmos, "transforms", stand_in, raising=False)
    folder = Path(models.model("cosmos-predict2")["model"])
    model = diffusers.CosmosTransformer3DModel.from_pretrained(folder / "transformer")
    vae = diffusers.AutoencoderKLWan.from_pretrained(folder / "vae")
    encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.bfloat16)
    ids = torch.tensor([[1]])  # the end of the sequence; padding is masked, then set to 0
    rows = torch.zeros(1, 512, 32)
    with torch.no_grad():
        rows[:, :1] = encoder(ids).last_hidden_state.float()
        mean = vae.encode(PIXELS[:, :, None]).latent_dist.mode()
    check_file("cosmos-predict2", folder, tmp_path, {"prompt_embeds": rows})
    constants = torch.tensor([vae.config.latents_mean, vae.config.latents_std])
    mu, std = constants.view(2, 1, -1, 1, 1, 1)
    sigma = 0.3 / 0.7  # EDM's: the pipeline's input is (x0 + sigma eps) / (1 + sigma)
    latents = (mean - mu) / std + sigma * NOISE[:, :, None]
    share = sigma / (1 + sigma)
    kept = outputs(
        model,
        [model.transformer_blocks[1], model.transformer_blocks[3]],
        hidden_states=latents * (1 - share),
        timestep=torch.tensor([share, share]),
        encoder_hidden_states=rows.expand(2, -1, -1),
        padding_mask=torch.zeros(1, 1, *SIZE),
    )
    backbone = models.load("cosmos-predict2", blocks=(1, 3), resolution=SIZE)
    found = backbone.encode(VIEWS, scene_id="room", view_ids=IDS, noise=NOISE)
    for block, own in zip((1, 3), kept, strict=True):
        assert error(found[f"k300_b{block}"], own.reshape(2, 4, 6, 48)) < 1e-5


@pytest.mark.slow
def test_hunyuan_is_what_its_pipeline_gives_the_class(models: SmallModels, tmp_path: Path) -> None:
    folder = Path(models.model("hunyuan-video")["model"])
    model = diffusers.HunyuanVideoTransformer3DModel.from_pretrained(folder / "transformer")
    vae = diffusers.AutoencoderKLHunyuanVideo.from_pretrained(folder / "vae")
    pipe = diffusers.HunyuanVideoPipeline(
        text_encoder=LlamaModel.from_pretrained(
            folder / "text_encoder", torch_dtype=torch.bfloat16
        ),
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        transformer=model,
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder_2=CLIPTextModel.from_pretrained(folder / "text_encoder_2"),
        tokenizer_2=AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
    )
    template = pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE
    with torch.no_grad():
        # Room for all that the tokenizer of letters makes of the template.
        rows, mask = pipe._get_llama_prompt_embeds("", template, max_sequence_length=900)
        pooled = pipe._get_clip_prompt_embeds("", max_sequence_length=12)
        latents = vae.encode(PIXELS[:, :, None]).latent_dist.mode() * 0.476986
    assert 0 < mask.sum() < mask.numel()
    told = {"prompt_embeds": rows, "prompt_attention_mask": mask, "pooled_prompt_embeds": pooled}
    check_file("hunyuan-video", folder, tmp_path, told)
    kept = outputs(
        model,
        [*model.transformer_blocks, *model.single_transformer_blocks],
        hidden_states=0.7 * latents + 0.3 * NOISE[:, :, None],
        timestep=torch.tensor([300.0, 300.0]),
        encoder_hidden_states=rows.float().expand(2, -1, -1),
        encoder_attention_mask=mask.expand(2, -1),
        pooled_projections=pooled.float().expand(2, -1),
        guidance=torch.tensor([6000.0, 6000.0]),
    )
    backbone = models.load("hunyuan-video", blocks=(0, 1, 2, 3), resolution=SIZE)
    found = backbone.encode(VIEWS, scene_id="room", view_ids=IDS, noise=NOISE)
    for block in range(4):
        expected = kept[block][0].reshape(2, 4, 6, 48)
        assert error(found[f"k300_b{block}"], expected) < 1e-5
