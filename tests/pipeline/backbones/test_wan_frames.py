"""The VAE's encoder for single frames, against the class that it is rewritten from."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from vega3d.pipeline.backbones.tiny import seed_weights
from vega3d.pipeline.backbones.wan_frames import FrameEncoder
from vega3d.pipeline.backbones.wan_networks import WanVae
from vega3d.pipeline.errors import CheckpointError


def vae(base_dim: int, **config: object) -> AutoencoderKLWan:
    made = AutoencoderKLWan(base_dim=base_dim, **config)
    seed_weights(made, 3)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim == 1 or name.endswith("gamma"):  # biases and norms that matter
                weight.add_(
                    0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
                )
    return made.requires_grad_(False).eval()


@pytest.mark.parametrize(("base_dim", "height", "width"), [(4, 96, 128), (8, 64, 48), (16, 32, 32)])
def test_equals_the_class_on_one_frame(base_dim: int, height: int, width: int) -> None:
    full = vae(base_dim)
    pixels = torch.rand((3, 3, height, width), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        ours = FrameEncoder(full)(pixels)
        theirs = full.encode(pixels.unsqueeze(2)).latent_dist.mode()[:, :, 0]
    assert ours.shape == theirs.shape == (3, 16, height // 8, width // 8)
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-6
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


def test_a_batch_is_its_views_one_by_one() -> None:
    encoder = FrameEncoder(vae(4))
    pixels = torch.rand((4, 3, 48, 64)) * 2 - 1
    with torch.inference_mode():
        alone = torch.cat([encoder(view[None]) for view in pixels])
        torch.testing.assert_close(encoder(pixels), alone, rtol=1e-5, atol=1e-6)


def test_another_vae_is_refused() -> None:
    with pytest.raises(CheckpointError, match="Wan2.2"):
        FrameEncoder(vae(4, patch_size=2, in_channels=12, out_channels=12))


def test_bfloat16_stays_near_float32() -> None:
    full = vae(8)
    pixels = torch.rand((2, 3, 64, 96), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        exact = FrameEncoder(full)(pixels)
        found = FrameEncoder(full, torch.bfloat16)(pixels)
    assert found.dtype == torch.float32
    # 8 bits: 2e-3 a rounded product; a dozen layers, each beside an exact residual.
    assert 1e-4 < float((found - exact).norm() / exact.norm()) < 2e-2


def video(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((2, 3, frames, 32, 48), generator=generator) * 2 - 1


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, {"patch_size": 2, "in_channels": 12, "out_channels": 12}])
@torch.inference_mode()
def test_videos_are_encoded_to_the_classes_bits(config: dict[str, int]) -> None:
    full = vae(4, **config)
    theirs = full.encode(video(9)).latent_dist.mode()
    assert torch.equal(WanVae(full, "cpu", alone=False).posterior_mean(video(9)), theirs)


@pytest.mark.slow
def test_threads_share_an_encoder_of_videos() -> None:
    """The class would mix their frames: it keeps what it saw on itself."""
    shared = WanVae(vae(4), "cpu", alone=False)

    def encoded(seed: int) -> Tensor:
        with torch.inference_mode():
            return shared.latents(video(9, seed))

    alone = [encoded(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for found, expected in zip(pool.map(encoded, range(3)), alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
