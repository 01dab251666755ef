"""Resizing and pooling on the model's device, to the same numbers as `grid.py` gives on the CPU.

Pillow resizes 8-bit images in fixed point: each pass sums pixels times 22-bit integers and rounds
to 8 bits. All of those sums are integers below 2^31, so products in float64, which data centre
GPUs compute as fast as float32, give the same bytes. Pillow 13 may take the columns first where
the axes shrink unlike; pixels are then up to three levels apart.
Letters: V views, H W the images, C channels.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from vega3d.pipeline.backbones.grid import PAD_GREY, Placement, TokenMap, pooling_weights
from vega3d.pipeline.backbones.resampling import BITS, kernel_weights


def place_on_device(
    rgb: UInt8[Tensor, "V H W 3"], placement: Placement
) -> UInt8[Tensor, "V h w 3"]:
    """Resize views onto the canvas as `grid.place` does, where they are."""
    rows, cols = placement.canvas
    top, left, bottom, right = placement.target
    above, before, below, after = placement.source
    height, width = rgb.shape[1:3]
    canvas = torch.full((len(rgb), rows, cols, 3), PAD_GREY, dtype=torch.uint8, device=rgb.device)
    across = _weights(width, right - left, before, after, str(rgb.device))
    down = _weights(height, bottom - top, above, below, str(rgb.device))
    planes = rgb.permute(0, 3, 1, 2).double()  # V 3 H W
    narrow = _to_8_bits(planes @ across.t())
    placed = _to_8_bits(down @ narrow)
    canvas[:, top:bottom, left:right] = placed.permute(0, 2, 3, 1).to(torch.uint8)
    return canvas


def pool_on_device(
    features: Float32[Tensor, "V h w C"],
    token_map: TokenMap,
    image_height: int,
    image_width: int,
    grid: tuple[int, int],
) -> Float32[Tensor, "V gh gw C"]:
    """Average tokens over the cells of an `area` map as `grid.pool_to_grid` does, in float64."""
    count, _, cols, channels = features.shape
    sizes = (image_height, image_width, grid, str(features.device))
    by_row, by_col, is_seen, is_used = _pooling(token_map, *sizes)
    used = torch.where(is_used, features.double(), 0.0)  # 0 times inf would be NaN
    wide = (by_row @ used.flatten(2)).view(count, grid[0], cols, channels)
    return torch.where(is_seen, (by_col @ wide).float(), torch.nan)


def to_host(parts: Mapping[str, Tensor]) -> Callable[[], dict[str, np.ndarray]]:
    """Begin to copy tensors from a GPU, and return what waits for them alone, taking no core."""
    held = {
        name: torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        for name, values in parts.items()
    }
    for name, values in parts.items():
        held[name].copy_(values, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # torch's stubs
    copied.record()

    def take() -> dict[str, np.ndarray]:
        copied.synchronize()
        return {name: values.numpy() for name, values in held.items()}

    return take


@lru_cache(maxsize=16)  # an upload makes the host wait for all that the GPU still has to do
def _pooling(
    token_map: TokenMap, image_height: int, image_width: int, grid: tuple[int, int], device: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    by_row, by_col, coverage = pooling_weights(token_map, image_height, image_width, grid)
    is_used = np.outer(by_row.any(axis=0), by_col.any(axis=0))
    made = (by_row, by_col, coverage[..., None] > 0, is_used[..., None])
    first, second, third, fourth = (torch.from_numpy(part).to(device) for part in made)
    return first, second, third, fourth


@lru_cache(maxsize=16)
def _weights(size: int, out_size: int, start: float, end: float, device: str) -> Tensor:
    return torch.from_numpy(kernel_weights("bicubic", size, out_size, start, end)).to(device)


def _to_8_bits(sums: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
    """Round as Pillow does: half a unit added, the fraction cut, values kept in 0..255."""
    return ((sums + (1 << (BITS - 1))) / (1 << BITS)).floor_().clamp_(0, 255)
