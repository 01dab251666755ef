import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.noise import view_noise
from vega3d.pipeline.backbones.wan_networks import read_transformer
from vega3d.pipeline.errors import CheckpointError, SceneError, UsageError

PROMPT = np.random.default_rng(5).standard_normal((3, 24)).astype(np.float32)
SIZE = (64, 96)
RNG = np.random.default_rng(0)
VIEWS = RNG.integers(0, 256, (6, *SIZE, 3), dtype=np.uint8)
IDS = list("abcdef")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the real classes, saved as published models are."""
    folder = tmp_path_factory.mktemp("wan")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dit = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            text_dim=24,
            freq_dim=32,
            ffn_dim=96,
            num_layers=5,
        )
        vae = AutoencoderKLWan(base_dim=4)
        with torch.no_grad():  # the published biases are not 0 either
            for weight in dit.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
            vae.quant_conv.weight.mul_(8)
    dit.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    return folder


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def load(checkpoint: Path, **settings: object) -> object:
    defaults = {"blocks": (1,), "resolution": SIZE, "prompt_embeds": PROMPT}
    return load_backbone("wan2.1-t2v", model=str(checkpoint), **{**defaults, **settings})


def encode(backbone: object, views: np.ndarray = VIEWS, **options: object) -> dict[str, Tensor]:
    ids = options.pop("view_ids", IDS[: len(views)])
    return backbone.encode(views, scene_id="room", view_ids=ids, **options)


def relative_error(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return relative L2, and the maximum error relative to the largest value."""
    gap = (found - expected).double()
    return (
        float(gap.norm() / expected.double().norm()),
        float(gap.abs().max() / expected.double().abs().max()),
    )


class FullForward:
    """The slow way: whole VAE, whole transformer, a hook on one block, one timestep at a time."""

    def __init__(self, folder: Path) -> None:
        self.dit = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer")
        self.vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae")

    @torch.no_grad()
    def latents(self, video: Tensor) -> Tensor:
        mean = self.vae.encode(video).latent_dist.mean
        shift = torch.tensor(self.vae.config.latents_mean)[None, :, None, None, None]
        return (mean - shift) / torch.tensor(self.vae.config.latents_std)[None, :, None, None, None]

    @torch.no_grad()
    def tap(self, latents: Tensor, noise: Tensor, timestep: int, block: int) -> Tensor:
        """latents [B, 16, T, h, w] -> block output [B, T, h / 2, w / 2, C]."""
        batch, _, frames, rows, cols = latents.shape
        text = torch.zeros(batch, 512, PROMPT.shape[1])
        text[:, : len(PROMPT)] = torch.from_numpy(PROMPT)
        kept = []
        hook = self.dit.blocks[block].register_forward_hook(lambda *call: kept.append(call[2]))
        sigma = timestep / 1000
        self.dit(
            hidden_states=latents * (1 - sigma) + noise * sigma,
            timestep=torch.full((batch,), float(timestep)),
            encoder_hidden_states=text,
        )
        hook.remove()
        return kept[0].reshape(batch, frames, rows // 2, cols // 2, -1)


def to_video(views: np.ndarray) -> Tensor:
    """Views of the canvas's own size -> [V, 3, 1, H, W] in [-1, 1]."""
    return torch.tensor(views).permute(0, 3, 1, 2)[:, :, None].float() / 255 * 2 - 1


Twin = Callable[[int, int], Tensor]


def frame_twin(full: FullForward, noise: Tensor) -> Twin:
    one = [full.latents(to_video(VIEWS[i : i + 1])) for i in range(6)]

    def tap(timestep: int, block: int) -> Tensor:
        taps = [full.tap(x, noise[i : i + 1], timestep, block) for i, x in enumerate(one)]
        return torch.cat(taps)[:, 0]

    return tap


def stack_twin(full: FullForward, noise: Tensor) -> Twin:
    latents = torch.cat([full.latents(to_video(VIEWS[i : i + 1])) for i in range(6)], dim=2)
    eps = torch.cat([noise[i : i + 1] for i in range(6)], dim=2)
    return lambda timestep, block: full.tap(latents, eps, timestep, block)[0]


def clip_twin(full: FullForward, noise: Tensor) -> Twin:
    # 6 views are padded to 9: latents hold views 0 | 1 2 3 4 | 5 5 5 5.
    frames = to_video(VIEWS[[0, 1, 2, 3, 4, 5, 5, 5, 5]])
    latents = full.latents(frames[:, :, 0].permute(1, 0, 2, 3)[None])
    eps = torch.stack([noise[0, :, 0], noise[1, :, 0], noise[5, :, 0]], dim=1)[None]
    return lambda k, block: full.tap(latents, eps, k, block)[0][[0, 1, 1, 1, 1, 2]]


@pytest.mark.one_quick
@pytest.mark.parametrize(
    ("context", "make_twin"), [("frame", frame_twin), ("stack", stack_twin), ("clip", clip_twin)]
)
def test_taps_agree_with_diffusers_full_forward(
    checkpoint: Path, context: str, make_twin: Callable[[FullForward, Tensor], Twin]
) -> None:
    noise = torch.randn(6, 16, 1, 8, 12, generator=torch.Generator().manual_seed(1))
    backbone = load(checkpoint, blocks=(0, 3, -1), timesteps=(300, 0, 875), context=context)
    features = encode(backbone, noise=noise)
    twin = make_twin(FullForward(checkpoint), noise)
    assert list(features) == [f"k{k}_b{b}" for k in (300, 0, 875) for b in (0, 3, 4)]
    for timestep in (300, 0, 875):
        for block in (0, 3, 4):
            found = features[f"k{timestep}_b{block}"]
            assert found.shape == (6, 4, 6, 48)
            assert found.dtype == torch.float32
            # Float32 sums in another order; the same maths is within 1e-6.
            assert max(relative_error(found, twin(timestep, block))) < 1e-5


def test_padding_the_text_after_the_mlp_would_be_another_result(checkpoint: Path) -> None:
    with_rows = encode(load(checkpoint), VIEWS[:1])["k300_b1"]
    more = np.vstack([PROMPT, np.zeros((100, 24), np.float32)])
    same = encode(load(checkpoint, prompt_embeds=more), VIEWS[:1])["k300_b1"]
    assert max(relative_error(with_rows, same)) < 1e-6
    other = encode(load(checkpoint, prompt_embeds=PROMPT[:1]), VIEWS[:1])["k300_b1"]
    assert relative_error(other, with_rows)[0] > 1e-4


def test_noise_is_drawn_from_each_views_own_key(checkpoint: Path) -> None:
    backbone = load(checkpoint, noise_samples=2, timesteps=(300, 600), noise_seed=9)
    features = encode(backbone)
    assert list(features) == ["k300_b1", "k600_b1", "k300_b1_n1", "k600_b1_n1"]
    given = load(checkpoint, timesteps=(300, 600), noise_seed=9)
    for timestep, sample in [(300, 0), (600, 1)]:
        draws = [view_noise(9, "room", i, timestep, sample, (16, 1, 8, 12)) for i in IDS]
        expected = encode(given, noise=torch.from_numpy(np.stack(draws)))[f"k{timestep}_b1"]
        name = f"k{timestep}_b1" + ("_n1" if sample else "")
        torch.testing.assert_close(features[name], expected, rtol=0, atol=0)


def test_the_clean_latent_is_timestep_0(checkpoint: Path) -> None:
    backbone = load(checkpoint, timesteps=(0,))
    first = encode(backbone, VIEWS[[0, 0]])["k0_b1"]
    assert max(relative_error(first[0], first[1])) < 1e-6
    noised = encode(load(checkpoint), VIEWS[[0, 0]])["k300_b1"]
    assert relative_error(noised[0], noised[1])[0] > 0.01


@pytest.mark.slow
def test_only_stack_and_clip_see_other_views(checkpoint: Path) -> None:
    changed = VIEWS.copy()
    changed[5] = 255 - changed[5]
    for context, sees in [("frame", False), ("stack", True), ("clip", True)]:
        backbone = load(checkpoint, context=context)
        gap = encode(backbone)["k300_b1"][0] - encode(backbone, changed)["k300_b1"][0]
        assert bool(gap.abs().max() > 1e-5) is sees


def test_clip_views_of_one_latent_share_features(checkpoint: Path) -> None:
    features = encode(load(checkpoint, context="clip"), VIEWS[:3])["k300_b1"]
    torch.testing.assert_close(features[1], features[2], rtol=0, atol=0)
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("context", ["frame", "stack", "clip"])
def test_one_view_is_the_same_in_every_context(checkpoint: Path, context: str) -> None:
    expected = encode(load(checkpoint), VIEWS[:1])["k300_b1"]
    found = encode(load(checkpoint, context=context), VIEWS[:1])["k300_b1"]
    assert max(relative_error(found, expected)) < 1e-5


@pytest.mark.parametrize("context", ["frame", "stack", "clip"])
def test_timesteps_that_share_a_pass_are_those_one_by_one(checkpoint: Path, context: str) -> None:
    settings = {"context": context, "timesteps": (0, 300, 700), "blocks": (1, 4)}
    alone = encode(load(checkpoint, **settings, batch_size=1), VIEWS[:2])
    shared = encode(load(checkpoint, **settings, batch_size=4), VIEWS[:2])
    assert list(shared) == list(alone)
    for tap, tokens in alone.items():
        assert max(relative_error(shared[tap], tokens)) < 1e-5


def test_bfloat16_keeps_the_residual_and_the_modulation_in_float32(checkpoint: Path) -> None:
    features = encode(load(checkpoint, dtype="bfloat16"), VIEWS[:1])["k300_b1"]
    assert not torch.equal(features, features.bfloat16().float())


@pytest.mark.one_quick
@pytest.mark.parametrize("context", ["frame", "stack", "clip"])
def test_the_same_call_gives_the_same_bits(checkpoint: Path, context: str) -> None:
    backbone = load(checkpoint, context=context)
    torch.testing.assert_close(encode(backbone), encode(backbone), rtol=0, atol=0)


def test_auto_keeps_the_images_aspect(checkpoint: Path) -> None:
    backbone = load(checkpoint, resolution="auto")
    assert backbone.canvas(480, 832) == (480, 832)
    assert backbone.token_map(832, 480).rows == 52


def test_blocks_out_of_range_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"blocks must lie in -5..4 for this model, got \[5\]"):
        load(checkpoint, blocks=(5,))
    with pytest.raises(ValueError, match="name a block twice"):
        load(checkpoint, blocks=(4, -1))


def test_too_many_latents_for_the_position_table_are_refused(broken: Path) -> None:
    path = broken / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_max_seq_len": 6}))
    encode(load(broken, context="clip"))
    views = np.repeat(VIEWS, 2, axis=0)
    with pytest.raises(SceneError, match=r"at most 6, got \(12, 4, 6\); take fewer --views"):
        encode(load(broken, context="stack"), views, view_ids=list("abcdefghijkl"))


def test_wrong_noise_and_prompts_are_refused(checkpoint: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"noise must be \[V, 16, 1, 8, 12\] for this input, got \[4, 16, 1, 8, 8\]",
    ):
        encode(load(checkpoint), noise=torch.zeros(6, 16, 1, 8, 8))
    with pytest.raises(ValueError, match="given noise is one sample, the backbone has 2"):
        encode(load(checkpoint, noise_samples=2), noise=torch.zeros(6, 16, 1, 8, 12))
    with pytest.raises(ValueError, match=r"1 to 512 rows of 24 numbers .* got \(3, 25\)"):
        load(checkpoint, prompt_embeds=np.zeros((3, 25), np.float32))


def test_a_truncated_file_is_a_checkpoint_error(broken: Path) -> None:
    path = broken / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="vae/diffusion_pytorch_model.*cannot be read"):
        load(broken)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "transformer",
            {"_class_name": "WanVACETransformer3DModel"},
            "found 'WanVACETransformer3DModel'",
        ),
        ("transformer", {"image_dim": 1280}, "is an image-to-video model"),
        (
            "transformer",
            {"patch_size": [1, 1, 1]},
            r"patch_size must be \(1, 2, 2\), found \[1, 1, 1\]",
        ),
        (
            "vae",
            {"_class_name": "AutoencoderKL"},
            "must hold a AutoencoderKLWan, found 'AutoencoderKL'",
        ),
        ("vae", {"z_dim": 48}, "found z_dim 48"),
    ],
)
def test_another_class_or_kind_of_model_is_named(
    broken: Path, part: str, change: dict[str, object], message: str
) -> None:
    path = broken / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load(broken)


def test_pickled_weights_are_never_loaded(broken: Path) -> None:
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(
        CheckpointError, match=r"found only \['diffusion_pytorch_model.bin'\].*convert"
    ):
        load(broken)


@pytest.mark.parametrize("folded", [False, True])
def test_only_blocks_up_to_the_tap_are_built(checkpoint: Path, folded: bool) -> None:
    model = read_transformer(checkpoint / "transformer", 1, folded=folded)
    assert len(model.blocks) == 2
    whole = WanTransformer3DModel.from_pretrained(checkpoint, subfolder="transformer")
    for name, weight in model.named_parameters():
        if weight.device.type != "meta":  # the head, which nothing reads
            torch.testing.assert_close(weight, whole.get_parameter(name), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["tf32", "float8"])
def test_a_gpus_precision_is_refused_on_a_cpu(checkpoint: Path, dtype: str) -> None:
    with pytest.raises(UsageError, match="on a CPU take float32 or bfloat16"):
        load(checkpoint, dtype=dtype)
