"""The VAE's encoder for videos, against the class that it is rewritten from."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from vega3d.pipeline.backbones.tiny import seed_weights
from vega3d.pipeline.backbones.wan_clips import ClipEncoder
from vega3d.pipeline.backbones.wan_networks import WanVae


def vae(**config: object) -> AutoencoderKLWan:
    made = AutoencoderKLWan(base_dim=4, **config)
    seed_weights(made, 3)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim == 1 or name.endswith("gamma"):  # biases and norms that matter
                weight.add_(
                    0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
                )
    return made.requires_grad_(False).eval()


def video(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((2, 3, frames, 32, 48), generator=generator) * 2 - 1


@pytest.mark.parametrize("frames", [1, 5, 13])
@torch.inference_mode()
def test_equals_the_class(frames: int) -> None:
    full = vae()
    ours, theirs = ClipEncoder(full)(video(frames)), full.encode(video(frames)).latent_dist.mode()
    assert ours.shape == theirs.shape == (2, 16, 1 + frames // 4, 4, 6)
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-6
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


@torch.inference_mode()
def test_the_classes_own_layers_give_its_bits() -> None:
    for settings in ({}, {"patch_size": 2, "in_channels": 12, "out_channels": 12}):
        full = vae(**settings)
        theirs = full.encode(video(9)).latent_dist.mode()
        assert torch.equal(WanVae(full, "cpu", alone=False).posterior_mean(video(9)), theirs)


@pytest.mark.parametrize("clips", [True, False])
def test_threads_share_one(clips: bool) -> None:
    """The class would mix their frames: it keeps what it saw on itself."""
    shared = WanVae(vae(), "cpu", alone=False, clips=clips)

    def encoded(seed: int) -> Tensor:
        with torch.inference_mode():
            return shared.latents(video(9, seed))

    alone = [encoded(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(encoded, range(4)), alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
