"""The steps of the released VEGA-3D pipeline that differ from ours, mistakes included.

Every function repeats one step of H-EmbodVis/VEGA-3D @ 9c96924 (main); file names below are its
own. Its noise is unseeded, so ours stays keyed. One step is left out: the release guesses the range
of its input from the whole video, and takes a video without a value under mid-grey for [0, 1].
"""

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor, nn

from vega3d.pipeline.backbones.grid import TokenMap

SQUASH_PX = 384
"""Side of the square that every frame is squashed to. Source: llava/video_utils.py."""

SHIFT = 5.0
"""Shift of the flow schedule. Source: scripts/3d/train/train_wan_t2v_online.sh."""

_STEPS = 1000


def reference_schedule() -> tuple[np.ndarray, np.ndarray]:
    """Return the release's 1000 integer timesteps (int64) and their sigmas (float32).

    Source: wan/utils/fm_solvers_unipc.py, built with shift 1 and then set to 1000 steps of shift 5.
    """
    sigma_max = float(np.float32(1.0 - 1.0 / _STEPS))
    base = np.linspace(sigma_max, 0.0, _STEPS + 1)[:-1]
    sigmas = SHIFT * base / (1.0 + (SHIFT - 1.0) * base)
    return (sigmas * _STEPS).astype(np.int64), sigmas.astype(np.float32)


def reference_noise_level(timestep: int) -> tuple[int, float]:
    """Return the scheduled timestep nearest to k, and its sigma.

    The nearest is the first of equals; of an entry that occurs twice the second gives the sigma.
    """
    timesteps, sigmas = reference_schedule()
    nearest = timesteps[np.argmin(np.abs(timesteps - timestep))]
    indices = np.flatnonzero(timesteps == nearest)
    return int(nearest), float(sigmas[indices[min(1, len(indices) - 1)]])


def reference_pixels(
    rgb: UInt8[np.ndarray, "V H W 3"], height: int, width: int, dtype: torch.dtype
) -> Float[Tensor, "V 3 1 height width"]:
    """Squash, normalise, enlarge without antialias and crop, in [-1, 1] and the given dtype.

    Source: llava/video_utils.py, multimodal_generative_encoder/common.py lines 24-66.
    """
    views = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(view)).resize(
                (SQUASH_PX, SQUASH_PX), Image.Resampling.BICUBIC
            )
        )
        for view in rgb
    ]
    pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255
    pixels = ((pixels - 0.5) / 0.5).bfloat16().float()  # the trainer hands images over in bfloat16
    pixels = (pixels + 1) / 2 * 2 - 1
    rows, cols, top, left = _cover(height, width)
    pixels = nn.functional.interpolate(
        pixels, size=(rows, cols), mode="bilinear", align_corners=False
    )
    return pixels[:, :, top : top + height, left : left + width].to(dtype).unsqueeze(2)


def reference_token_map(
    image_height: int, image_width: int, height: int, width: int, patch_px: int
) -> TokenMap:
    """Say where the tokens look: all of the width, and rows 84 to 300 of 384 at 720x1280.

    The release pools the tokens, not the image. Source: multimodal_generative_encoder/
    wan_t2v_encoder.py, lines 211-220.
    """
    rows, cols, top, left = _cover(height, width)
    return TokenMap(
        rows=height // patch_px,
        cols=width // patch_px,
        scale_row=rows / image_height / patch_px,
        offset_row=-top / patch_px,
        scale_col=cols / image_width / patch_px,
        offset_col=-left / patch_px,
        pooling="adaptive",
    )


def reference_latents(
    mean: Float[Tensor, "B z t h w"], latents_mean: Tensor, latents_std: Tensor, dtype: torch.dtype
) -> Float32[Tensor, "B z t h w"]:
    """Normalise the posterior's mean with constants rounded to the tower's dtype.

    Source: wan/modules/vae.py, lines 629-655.
    """
    shape = (1, -1, 1, 1, 1)
    offset = latents_mean.to(dtype).view(shape)
    inverse = (1.0 / latents_std.to(dtype)).view(shape)
    return ((mean.to(dtype) - offset) * inverse).float()


def reference_sinusoid(timestep: int, width: int) -> Float32[Tensor, "1 width"]:
    """Return the time sinusoid, cosines first, computed in float64.

    Source: wan/modules/model.py, sinusoidal_embedding_1d.
    """
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float64) / half
    angle = timestep * torch.pow(torch.tensor(10000.0, dtype=torch.float64), -exponent)
    return torch.cat([angle.cos(), angle.sin()])[None].float()


def _cover(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the size of the square scaled to cover the canvas, and the crop's top and left."""
    scale = max(height / SQUASH_PX, width / SQUASH_PX)
    rows = cols = round(SQUASH_PX * scale)
    return rows, cols, (rows - height) // 2, (cols - width) // 2
