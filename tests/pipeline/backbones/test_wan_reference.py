"""The released recipe's steps against plain re-implementations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from PIL import Image

from vega3d.pipeline.backbones.grid import grid_cells
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.wan_reference import (
    reference_latents,
    reference_noise_level,
    reference_pixels,
    reference_schedule,
    reference_sinusoid,
    reference_token_map,
)

RNG = np.random.default_rng(0)
PROMPT = RNG.standard_normal((1, 24)).astype(np.float32)


@pytest.mark.parametrize(
    ("timestep", "scheduled", "sigma"),
    [
        (50, 52, 0.05263),
        (100, 101, 0.10101),
        (200, 201, 0.20117),
        (250, 251, 0.25140),
        (300, 299, 0.299923837),
        (400, 400, 0.40054),
        (500, 500, 0.50030),
        (600, 601, 0.60135),
        (700, 700, 0.70048),
        (800, 800, 0.80007),
        (900, 900, 0.90059),
        (1000, 999, 0.99960),
    ],
)
def test_noise_levels_are_those_of_the_release(timestep: int, scheduled: int, sigma: float) -> None:
    found = reference_noise_level(timestep)
    assert found[0] == scheduled
    assert found[1] == pytest.approx(sigma, abs=6e-6 if timestep != 300 else 5e-10)


def test_the_schedule_has_618_timesteps_and_300_is_entry_921() -> None:
    timesteps, sigmas = reference_schedule()
    assert timesteps.dtype == np.int64
    assert sigmas.dtype == np.float32
    assert len(np.unique(timesteps)) == 618
    assert timesteps[921] == 299
    assert sigmas[921] == np.float32(0.299923837)


def test_a_timestep_that_occurs_twice_takes_its_second_sigma() -> None:
    timesteps, sigmas = reference_schedule()
    first, second = np.flatnonzero(timesteps == 999)[:2]
    assert reference_noise_level(999)[1] == sigmas[second] != sigmas[first]


def bilinear(image: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Sample [H, W, 3] at pixel centres with two taps an axis, clamped at the border."""

    def taps(size: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        centre = np.maximum((np.arange(count) + 0.5) * size / count - 0.5, 0)
        low = np.floor(centre).astype(int)
        return low, np.minimum(low + 1, size - 1), centre - low

    r0, r1, fr = taps(image.shape[0], rows)
    c0, c1, fc = taps(image.shape[1], cols)
    tall = image[r0] * (1 - fr)[:, None, None] + image[r1] * fr[:, None, None]
    return tall[:, c0] * (1 - fc)[None, :, None] + tall[:, c1] * fc[None, :, None]


@pytest.mark.parametrize(
    ("size", "side", "top"), [((720, 1280), 1280, 280), ((480, 832), 832, 176)]
)
def test_pixels_follow_the_recipe(size: tuple[int, int], side: int, top: int) -> None:
    rgb = RNG.integers(0, 256, (1, 120, 160, 3), dtype=np.uint8)
    squashed = Image.fromarray(rgb[0]).resize((384, 384), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(squashed) / 255.0).to(torch.float32)
    values = ((values - 0.5) / 0.5).to(torch.bfloat16).to(torch.float32).numpy()
    cropped = bilinear(values.astype(np.float64), side, side)[top : top + size[0]]
    found = reference_pixels(rgb, *size, torch.float32)
    assert found.shape == (1, 3, 1, *size)
    # torch's sampling positions are float32: up to 384 x 6e-8 px, times a slope of up to 2 a px.
    np.testing.assert_allclose(found[0, :, 0].permute(1, 2, 0).numpy(), cropped, atol=6e-5)
    rounded = reference_pixels(rgb, *size, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, found.bfloat16(), rtol=0, atol=0)


def test_tokens_see_rows_84_to_300_of_384() -> None:
    token_map = reference_token_map(384, 384, 720, 1280, 16)
    assert (token_map.rows, token_map.cols) == (45, 80)
    edges = (np.array([0, 45]) - token_map.offset_row) / token_map.scale_row
    np.testing.assert_allclose(edges, [84, 300])
    assert (80 - token_map.offset_col) / token_map.scale_col == pytest.approx(384)


def test_latents_use_rounded_constants_twice() -> None:
    mean = torch.randn(1, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    offset, std = torch.tensor([-0.7571, 0.1075]), torch.tensor([2.8184, 1.4541])
    found = reference_latents(mean, offset, std, torch.bfloat16)
    inverse = (1 / std.bfloat16().double()).bfloat16()
    for channel in range(2):
        centred = (
            mean[:, channel].bfloat16().double() - offset[channel].bfloat16().double()
        ).bfloat16()
        expected = (centred.double() * inverse[channel].double()).bfloat16().float()
        torch.testing.assert_close(found[:, channel], expected, rtol=0, atol=0)
    assert found.dtype == torch.float32


def test_the_sinusoid_is_computed_in_float64() -> None:
    found = reference_sinusoid(299, 8)[0]
    angles = [299 / 10000 ** (i / 4) for i in range(4)]
    expected = np.array([*np.cos(angles), *np.sin(angles)], dtype=np.float32)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            text_dim=24,
            freq_dim=32,
            ffn_dim=96,
            num_layers=3,
        ).save_pretrained(folder / "transformer")
        AutoencoderKLWan(base_dim=4).save_pretrained(folder / "vae")
    return folder


def test_the_recipe_end_to_end(checkpoint: Path) -> None:
    backbone = load_backbone(
        "wan2.1-t2v",
        model=str(checkpoint),
        blocks=(1,),
        resolution=(96, 160),
        fit="crop",
        recipe="reference",
        prompt_embeds=PROMPT,
    )
    rgb = RNG.integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    noise = torch.randn(2, 16, 1, 12, 20, generator=torch.Generator().manual_seed(3))
    found = backbone.encode(rgb, scene_id="s", view_ids=["a", "b"], noise=noise)["k300_b1"]

    dit = WanTransformer3DModel.from_pretrained(checkpoint, subfolder="transformer")
    vae = AutoencoderKLWan.from_pretrained(checkpoint, subfolder="vae")
    offset = torch.tensor(vae.config.latents_mean)[None, :, None, None, None]
    std = torch.tensor(vae.config.latents_std)[None, :, None, None, None]
    text = torch.zeros(2, 512, 24)
    text[:, :1] = torch.from_numpy(PROMPT)
    kept = []
    dit.blocks[1].register_forward_hook(lambda *call: kept.append(call[2]))
    with torch.no_grad():
        pixels = reference_pixels(rgb, 96, 160, torch.float32)
        latents = (vae.encode(pixels).latent_dist.mean - offset) / std
        x = 0.700076163 * latents + 0.299923837 * noise
        dit(x, torch.tensor([299, 299]), text)
    expected = kept[0].reshape(2, 6, 10, 48)
    # diffusers' sinusoid is float32: angles up to 299 are off by 299 x 6e-8.
    assert float((found - expected).norm() / expected.norm()) < 1e-4

    token_map = backbone.token_map(60, 80)
    assert token_map.pooling == "adaptive"
    rows, cols = grid_cells(token_map, 60, 80, (4, 4))
    # 96 of 160 rows of the square are kept, from row 32: 12 to 48 of the image's 60.
    assert rows[0, 0] == pytest.approx(12)
    assert rows[-1, 1] == pytest.approx(48)
    assert (cols[0, 0], cols[-1, 1]) == (pytest.approx(0), pytest.approx(80))


@pytest.mark.slow
def test_the_recipe_runs_in_bfloat16(checkpoint: Path) -> None:
    settings = {"model": str(checkpoint), "blocks": (2,), "resolution": (96, 160), "fit": "crop"}
    rgb = RNG.integers(0, 256, (1, 60, 80, 3), dtype=np.uint8)
    features = [
        load_backbone(
            "wan2.1-t2v", recipe="reference", dtype=dtype, prompt_embeds=PROMPT, **settings
        ).encode(rgb, scene_id="s", view_ids=["a"])["k300_b2"]
        for dtype in ("float32", "bfloat16")
    ]
    gap = float((features[1] - features[0]).norm() / features[0].norm())
    assert 1e-4 < gap < 0.05


def test_the_recipe_refuses_another_fit(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="fit must be crop, got 'pad'"):
        load_backbone("wan2.1-t2v", model=str(checkpoint), recipe="reference")
