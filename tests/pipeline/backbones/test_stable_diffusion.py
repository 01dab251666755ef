"""Stable Diffusion's networks against a plain use of their classes and pipelines."""

import re
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_backbones import SmallModels
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from vega3d.pipeline.backbones.sd_noise import noise_level
from vega3d.pipeline.backbones.svd_noise import preconditioned, sigma_of
from vega3d.pipeline.errors import UsageError

SIZE = (64, 128)
VIEWS = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
IDS = ["a", "b"]
PIXELS = torch.from_numpy(VIEWS).permute(0, 3, 1, 2).float() / 255 * 2 - 1
PROMPT = np.random.default_rng(5).standard_normal((12, 32)).astype(np.float32)
NOISE = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(1))


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def plain(unet: Any, **arguments: Tensor) -> list[Tensor]:  # noqa: ANN401
    """Run the whole UNet; return what the middle is given, and every later output."""
    kept: dict[int, Tensor] = {}

    def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
        kept[0] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

    hooks = [unet.mid_block.register_forward_pre_hook(before, with_kwargs=True)]
    for stage, module in enumerate([unet.mid_block, *unet.up_blocks], start=1):
        hooks.append(
            module.register_forward_hook(lambda *at, stage=stage: kept.__setitem__(stage, at[2]))
        )
    with torch.no_grad():
        unet(**arguments)
    for hook in hooks:
        hook.remove()
    return [kept[stage].permute(0, 2, 3, 1) for stage in sorted(kept)]


@pytest.mark.parametrize(
    "blocks", [(0, 1), (2,), *(pytest.param((b,), marks=pytest.mark.slow) for b in (3, 4, 5))]
)
def test_sd_is_the_class_at_every_stage(models: SmallModels, blocks: tuple[int, ...]) -> None:
    folder = Path(models.model("sd2.1")["model"])
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    schedule = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    with torch.no_grad():
        latents = vae.encode(PIXELS).latent_dist.mode() * 0.18215
    steps = torch.tensor([250, 250])
    expected = plain(
        unet,
        sample=schedule.add_noise(latents, NOISE, steps),
        timestep=steps,
        encoder_hidden_states=torch.from_numpy(PROMPT)[None].expand(2, -1, -1),
    )
    backbone = models.load("sd2.1", blocks=blocks, resolution=SIZE, prompt_embeds=PROMPT)
    found = backbone.encode(VIEWS, scene_id="room", view_ids=IDS, noise=NOISE)
    for block in blocks:
        assert error(found[f"k250_b{block}"], expected[block]) < 1e-5


def test_the_noise_levels_are_those_of_the_schedule() -> None:
    """The two numbers of the released code's step 250."""
    kept, noise = noise_level(250)
    assert (round(kept, 4), round(noise, 4)) == (0.8208, 0.5711)


def test_stages_of_two_sizes_are_two_stores(models: SmallModels) -> None:
    with pytest.raises(UsageError, match="one width and one size of cell, got 1: 64 .* 64 px, 2:"):
        models.load("sd2.1", blocks=(1, 2), resolution=SIZE)


@pytest.mark.slow
def test_the_empty_prompt_is_the_pipelines(models: SmallModels, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, CLIPTextModel

    folder = Path(models.model("sd2.1")["model"])
    ids = AutoTokenizer.from_pretrained(folder / "tokenizer")(
        "", padding="max_length", max_length=12, truncation=True, return_tensors="pt"
    ).input_ids
    assert ids[0].tolist() == [1, 2] + 10 * [0]
    with torch.no_grad():
        rows = CLIPTextModel.from_pretrained(folder / "text_encoder")(ids).last_hidden_state[0]
    seen = models.load("sd2.1", resolution=SIZE)
    save_file({"prompt_embeds": rows[None].contiguous()}, tmp_path / "p.safetensors")
    for prompt in (rows.numpy(), str(tmp_path / "p.safetensors")):
        given = models.load("sd2.1", resolution=SIZE, prompt_embeds=prompt)
        one, other = (b.encode(VIEWS, scene_id="s", view_ids=IDS)["k250_b1"] for b in (seen, given))
        assert error(one, other) < 1e-5


def test_the_vae_alone_is_the_scaled_mean(models: SmallModels) -> None:
    folder = Path(models.model("sd-vae")["model"])
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        expected = vae.encode(PIXELS).latent_dist.mode() * 0.18215
    found = models.load("sd-vae", resolution=SIZE).encode(VIEWS, scene_id="s", view_ids=IDS)
    assert error(found["latent"], expected.permute(0, 2, 3, 1)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("context", ["frame", "clip"])
def test_svd_is_what_its_pipeline_gives_the_unet(models: SmallModels, context: str) -> None:
    folder = Path(models.model("svd")["model"])
    unet = diffusers.UNetSpatioTemporalConditionModel.from_pretrained(folder / "unet")
    vae = diffusers.AutoencoderKLTemporalDecoder.from_pretrained(folder / "vae")
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction", timestep_type="continuous", sigma_min=0.002, sigma_max=700,
        use_karras_sigmas=True,
    )  # fmt: skip
    pipe = diffusers.StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder"),
        unet=unet,
        scheduler=scheduler,
        feature_extractor=CLIPImageProcessor.from_pretrained(folder / "feature_extractor"),
    )
    backbone = models.load("svd", blocks=(0, 1), resolution=SIZE, context=context)
    found = backbone.encode(VIEWS, scene_id="room", view_ids=IDS, noise=NOISE)
    videos = [[0], [1]] if context == "frame" else [[0, 1]]
    for frames in videos:
        expected = _svd_plain(pipe, unet, vae, scheduler, frames)
        for block in (0, 1):
            mine = found[f"k300_b{block}"][frames]
            assert error(mine, expected[block]) < 1e-5


def _svd_plain(pipe: Any, unet: Any, vae: Any, scheduler: Any, frames: list[int]) -> list[Tensor]:  # noqa: ANN401
    """One video through the pipeline's own steps, noised by the scheduler at sigma 3 / 7."""
    sigma = 0.3 / 0.7
    scheduler.sigmas = torch.tensor([sigma, 0.0])
    scheduler.timesteps = torch.tensor([0.25 * np.log(sigma)])
    with torch.no_grad():
        first = Image.fromarray(VIEWS[frames[0]])
        square = pipe._encode_image(first, torch.device("cpu"), 1, False)
        latents = vae.encode(PIXELS[frames]).latent_dist.mode() * 0.18215
        beside = pipe._encode_vae_image(PIXELS[frames[:1]], torch.device("cpu"), 1, False)
    ids = pipe._get_add_time_ids(6, 127, 0.0, torch.float32, 1, 1, False)
    noisy = scheduler.add_noise(latents, NOISE[frames], scheduler.timesteps.repeat(len(frames)))
    noisy = scheduler.scale_model_input(noisy, scheduler.timesteps[0])[None]
    return plain(
        unet,
        sample=torch.cat([noisy, beside[:, None].repeat(1, len(frames), 1, 1, 1)], dim=2),
        timestep=scheduler.timesteps[0],
        encoder_hidden_states=square,
        added_time_ids=ids,
    )


def test_svds_noise_is_on_its_own_scale() -> None:
    assert sigma_of(500) == 1
    assert (sigma_of(0), sigma_of(1000)) == (0.002, 700)
    c_in, c_noise = preconditioned(1.0)
    assert (c_in, c_noise) == (pytest.approx(2**-0.5), 0.0)
    # The largest c_noise is what the released code took for the nearest of 250.
    assert preconditioned(700.0)[1] == pytest.approx(1.638, abs=1e-3)


@pytest.mark.parametrize(
    ("noise", "told"),
    [
        (np.zeros((3, 4, 12, 16), np.float32), "must be a float32 tensor of torch, got float32"),
        (torch.zeros(3, 4, 12, 16, dtype=torch.float64), "got torch.float64"),
        (torch.full((3, 4, 12, 16), torch.nan), "noise holds numbers that are not finite"),
    ],
)
def test_noise_of_another_kind_is_refused(noise: object, told: str, models: SmallModels) -> None:
    backbone = models.load("sd2.1")
    views = np.zeros((3, 96, 128, 3), np.uint8)
    with pytest.raises(ValueError, match=re.escape(told)):
        backbone.encode(views, scene_id="s", view_ids=["a", "b", "c"], noise=noise)
