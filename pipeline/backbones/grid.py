"""Where a backbone's tokens look, and pooling them to the grid that all backbones share.

Letters: V views, H W image px, h w a backbone's own token grid, gh gw the common grid, C channels.
Coordinates are continuous: pixel or token i spans [i, i + 1]. Three steps, each pure: a Placement
says how an image gets onto the backbone's canvas, a TokenMap says which pixels a token sees, and
`pool_to_grid` averages tokens by the area they share with each cell of the whole image.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from vega3d.pipeline.backbones.settings import Fit

Pooling = Literal["area", "adaptive"]

PAD_GREY = 128
"""Mid-grey, which every backbone here normalises to about 0."""

_SLIVER = 1e-9
"""Shares of a cell below this are rounding, not tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenMap:
    """Affine map from image pixels to a backbone's token grid: token = scale * pixel + offset."""

    rows: int
    cols: int
    scale_row: float
    offset_row: float
    scale_col: float
    offset_col: float
    pooling: Pooling = "area"
    """How tokens become cells of the common grid: by the area that they share with each cell of
    the whole image, or as adaptive_avg_pool2d divides the token grid, whatever it covers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """How an image gets onto a canvas: a source window is resized into a target rectangle."""

    canvas: tuple[int, int]
    """Rows and columns of the backbone's input, px."""

    source: tuple[float, float, float, float]
    """Top, left, bottom, right of what is seen of the image, in image px."""

    target: tuple[int, int, int, int]
    """Top, left, bottom, right of where it lands, in canvas px; the rest is mid-grey."""

    def token_map(self, patch_px: int) -> TokenMap:
        """Say where the tokens look, each `patch_px` canvas pixels wide; a rest is not covered."""
        scale_row, offset_row = _affine(self.source[0::2], self.target[0::2], patch_px)
        scale_col, offset_col = _affine(self.source[1::2], self.target[1::2], patch_px)
        return TokenMap(
            rows=self.canvas[0] // patch_px,
            cols=self.canvas[1] // patch_px,
            scale_row=scale_row,
            offset_row=offset_row,
            scale_col=scale_col,
            offset_col=offset_col,
        )


def plan_placement(
    image_height: int, image_width: int, canvas: tuple[int, int], fit: Fit
) -> Placement:
    """Plan how an image of one size gets onto a canvas of another.

    Args:
        image_height: Rows of the image, px.
        image_width: Columns of the image, px.
        canvas: Rows and columns of the backbone's input, px.
        fit: `pad` shows all of the image, centred; `crop` fills the canvas from the image's
            middle; `stretch` changes the aspect.
    """
    rows, cols = canvas
    source = (0.0, 0.0, float(image_height), float(image_width))
    if fit == "stretch":
        return Placement(canvas=canvas, source=source, target=(0, 0, rows, cols))
    if fit == "crop":
        scale = max(rows / image_height, cols / image_width)
        # One of the two is 0 up to rounding, and Pillow takes no box that starts at -1e-14.
        top = max(0.0, (image_height - rows / scale) / 2)
        left = max(0.0, (image_width - cols / scale) / 2)
        source = (top, left, image_height - top, image_width - left)
        return Placement(canvas=canvas, source=source, target=(0, 0, rows, cols))
    scale = min(rows / image_height, cols / image_width)
    height = min(rows, max(1, round(image_height * scale)))
    width = min(cols, max(1, round(image_width * scale)))
    top, left = (rows - height) // 2, (cols - width) // 2
    return Placement(canvas=canvas, source=source, target=(top, left, top + height, left + width))


def place(
    rgb: UInt8[np.ndarray, "V H W 3"], placement: Placement
) -> UInt8[np.ndarray, "V rows cols 3"]:
    """Resize views onto the canvas, bicubic with antialias, from 8-bit RGB.

    Pillow's bicubic is what the reference and SigLIP's own processor resize with; it widens the
    kernel when it shrinks (no aliasing), and gives the same bytes on every machine.
    """
    from vega3d.pipeline.backbones.resampling import resize  # numba's: not to plan with

    rows, cols = placement.canvas
    top, left, bottom, right = placement.target
    above, before, below, after = placement.source
    canvas = np.full((len(rgb), rows, cols, 3), PAD_GREY, dtype=np.uint8)
    size, box = (bottom - top, right - left), (before, above, after, below)
    for view, out in zip(rgb, canvas, strict=True):
        out[top:bottom, left:right] = resize(view, size, "bicubic", box)
    return canvas


def pool_to_grid(
    features: Float32[np.ndarray, "V h w C"],
    token_map: TokenMap,
    image_height: int,
    image_width: int,
    grid: tuple[int, int],
) -> tuple[Float32[np.ndarray, "V gh gw C"], Float32[np.ndarray, "gh gw"]]:
    """Average tokens over each cell of the whole image, weighted by the area they share with it.

    The weights are separable (rows x columns). Sums run in float64 and are rounded once, so that
    neither the order nor the number of threads shows in the float32 result.

    A map that says `adaptive` is pooled as adaptive_avg_pool2d does, and covers every cell.

    Returns:
        The pooled features, NaN where no token looks, and the share of each cell that tokens see.
    """
    if features.shape[1:3] != (token_map.rows, token_map.cols):
        raise ValueError(
            f"features are {features.shape[1]}x{features.shape[2]} tokens, "
            f"their token map says {token_map.rows}x{token_map.cols}"
        )
    if token_map.pooling == "adaptive":
        return _adaptive_pool(features, grid), np.ones(grid, dtype=np.float32)
    from vega3d.pipeline.backbones.pooling import pool

    rows, cols, coverage = pooling_weights(token_map, image_height, image_width, grid)
    pooled = pool(features, rows, cols)
    pooled[:, coverage == 0] = np.nan
    return pooled, coverage


def pooling_weights(
    token_map: TokenMap, image_height: int, image_width: int, grid: tuple[int, int]
) -> tuple[Float64[np.ndarray, "gh h"], Float64[np.ndarray, "gw w"], Float32[np.ndarray, "gh gw"]]:
    """Return the shares of an `area` map's tokens in each row and column of cells, and coverage."""
    rows, row_share = _weights(
        token_map.rows, token_map.scale_row, token_map.offset_row, image_height, grid[0]
    )
    cols, col_share = _weights(
        token_map.cols, token_map.scale_col, token_map.offset_col, image_width, grid[1]
    )
    return rows, cols, np.outer(row_share, col_share).astype(np.float32)


def grid_cells(
    token_map: TokenMap,
    image_height: int,
    image_width: int,
    grid: tuple[int, int],
) -> tuple[Float64[np.ndarray, "gh 2"], Float64[np.ndarray, "gw 2"]]:
    """Return the intervals of image rows and columns that each common cell looks at, px.

    Args:
        token_map: Where the backbone's tokens look. Its pooling `area` divides the image evenly;
            `adaptive` divides the token grid as adaptive_avg_pool2d does, neighbouring bins
            overlapping, and may reach past the image.
        image_height: Rows of the image, px.
        image_width: Columns of the image, px.
        grid: Rows and columns of the common grid.
    """
    if token_map.pooling == "area":
        return _even_cells(image_height, grid[0]), _even_cells(image_width, grid[1])
    rows = (_adaptive_bins(token_map.rows, grid[0]) - token_map.offset_row) / token_map.scale_row
    cols = (_adaptive_bins(token_map.cols, grid[1]) - token_map.offset_col) / token_map.scale_col
    return rows, cols


def _affine(
    source: tuple[float, ...], target: tuple[int, ...], patch_px: int
) -> tuple[float, float]:
    """Return scale and offset of token = scale * pixel + offset along one axis."""
    scale = (target[1] - target[0]) / (source[1] - source[0])
    return scale / patch_px, (target[0] - scale * source[0]) / patch_px


def _weights(
    num_tokens: int, scale: float, offset: float, image_size: int, num_cells: int
) -> tuple[Float64[np.ndarray, "cells tokens"], Float64[np.ndarray, " cells"]]:
    """Return each token's share in each cell along one axis (rows sum to 1), and the share seen."""
    cells = _even_cells(image_size, num_cells)
    edges = (np.arange(num_tokens + 1) - offset) / scale
    low = np.maximum(cells[:, :1], edges[:-1])
    high = np.minimum(cells[:, 1:], edges[1:])
    overlap = np.maximum(high - low, 0.0) * num_cells / image_size
    overlap[overlap < _SLIVER] = 0.0
    share = overlap.sum(axis=1)
    return overlap / np.where(share > 0, share, 1.0)[:, None], np.minimum(share, 1.0)


def _even_cells(image_size: int, num_cells: int) -> Float64[np.ndarray, "cells 2"]:
    edges = np.arange(num_cells + 1) * image_size / num_cells
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _adaptive_pool(
    features: Float32[np.ndarray, "V h w C"], grid: tuple[int, int]
) -> Float32[np.ndarray, "V gh gw C"]:
    """Pool the tokens, not the image; neighbouring bins overlap."""
    import torch

    channels_first = torch.from_numpy(features).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.adaptive_avg_pool2d(channels_first, grid).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pooled.numpy())


def _adaptive_bins(num_tokens: int, num_cells: int) -> Float64[np.ndarray, "cells 2"]:
    """Return first and past-the-last token of each bin: floor(i n / m), ceil((i + 1) n / m).

    Source: torch.nn.AdaptiveAvgPool2d (aten/src/ATen/native/AdaptivePooling.h).
    """
    cell = np.arange(num_cells)
    start = cell * num_tokens // num_cells
    end = -((-(cell + 1) * num_tokens) // num_cells)
    return np.stack([start, end], axis=1).astype(np.float64)
