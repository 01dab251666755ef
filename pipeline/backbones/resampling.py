"""Pillow's resizing of 8-bit RGB, compiled: the same bytes in a third of the time.

Pillow sums pixels times 22-bit integers, rows first, and rounds to 8 bits after each pass. Those
are integers, so whoever adds them the same way gets the same bytes, on every machine.
Letters: H W an image, h w the wanted size.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8, UInt32
from PIL import Image

from vega3d.pipeline.backbones.box_means import Areas, areas, box_means
from vega3d.pipeline.compiled import compiled

Filter = Literal["bicubic", "box"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, px, as Pillow takes it."""

BITS = 22
"""Of Pillow's 8-bit resampling. Source: Pillow, src/libImaging/Resample.c, PRECISION_BITS."""

_HALF = 1 << (BITS - 1)

_ALIKE = 1.02
"""Pillow 13 takes the columns first where the height shrinks by much more than the width; such
resizing is left to the Pillow that is here."""

_ROWS = 64
"""Rows that go through together: their copies stay in the cache."""


def resize(
    rgb: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], filter_name: Filter, box: Box
) -> UInt8[np.ndarray, "h w 3"]:
    """Return what `Image.resize` gives for a window of an image.

    Args:
        rgb: The image.
        size: Rows and columns that are wanted.
        filter_name: `bicubic`, with antialias where it shrinks, or `box`, the mean of an area.
        box: The window that is resized.
    """
    across, down = (box[2] - box[0]) / size[1], (box[3] - box[1]) / size[0]
    if down / across > _ALIKE:
        kind = Image.Resampling.BICUBIC if filter_name == "bicubic" else Image.Resampling.BOX
        image = Image.fromarray(np.ascontiguousarray(rgb))
        return np.asarray(image.resize(size[::-1], kind, box=box))
    across_of = (filter_name, rgb.shape[1], size[1], box[0], box[2])
    down_of = (filter_name, rgb.shape[0], size[0], box[1], box[3])
    if filter_name == "box":
        wide, high = _areas(*across_of), _areas(*down_of)
        if wide and high:
            return box_means(np.ascontiguousarray(rgb), wide, high, BITS)
    cols, rows = _weights(*across_of), _weights(*down_of)
    out = np.empty((*size, 3), dtype=np.uint8)
    _resize(np.ascontiguousarray(rgb), *cols, *rows, out)
    return out


def kernel_weights(
    filter_name: Filter, size: int, out_size: int, start: float, end: float
) -> Float64[np.ndarray, "out_size size"]:
    """Return what each pixel gives to each output pixel, in units of 2^-22, as Pillow rounds it.

    Args:
        filter_name: Which kernel.
        size: Pixels along the axis.
        out_size: Pixels that are wanted.
        start: Where the window begins that they are taken from, px.
        end: Where it ends.

    Source: Pillow, src/libImaging/Resample.c, precompute_coeffs and normalize_coeffs_8bpc.
    """
    # Pillow keeps boxes in 32 bits, and subtracts there.
    scale = float(np.float32(end) - np.float32(start)) / out_size
    start, end = float(np.float32(start)), float(np.float32(end))
    widen = max(scale, 1.0)
    kernel, reach = _KERNELS[filter_name]
    centers = start + (np.arange(out_size) + 0.5) * scale
    first = np.maximum((centers - reach * widen + 0.5).astype(np.int64), 0)
    past = np.minimum((centers + reach * widen + 0.5).astype(np.int64), size)
    pixel = np.arange(size)
    distance = (pixel - centers[:, None] + 0.5) * (1.0 / widen)
    inside = (pixel >= first[:, None]) & (pixel < past[:, None])
    weights = np.where(inside, kernel(distance), 0.0)
    weights /= weights.cumsum(axis=1)[:, -1:]  # in order, as Pillow adds them
    rounded: np.ndarray = np.trunc(weights * (1 << BITS) + np.copysign(0.5, weights))
    return rounded


def _bicubic(x: Float64[np.ndarray, "out_size size"]) -> Float64[np.ndarray, "out_size size"]:
    """Return Keys' kernel with a = -0.5, which is Pillow's."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _flat(x: Float64[np.ndarray, "out_size size"]) -> Float64[np.ndarray, "out_size size"]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


_KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bicubic": (_bicubic, 2.0),
    "box": (_flat, 0.5),
}
"""Each with half of its width, in output pixels."""


@lru_cache(maxsize=64)
def _weights(
    filter_name: Filter, size: int, out_size: int, start: float, end: float
) -> tuple[Int64[np.ndarray, " out_size"], Int32[np.ndarray, "out_size taps"]]:
    """Return the first pixel of each output pixel, and the weights from there on, 0 at the end."""
    dense = kernel_weights(filter_name, size, out_size, start, end).astype(np.int32)
    used = dense != 0
    first = used.argmax(axis=1)
    taps = int((size - used[:, ::-1].argmax(axis=1) - first).max())
    first = np.minimum(first, size - taps)
    return first, np.take_along_axis(dense, first[:, None] + np.arange(taps), axis=1)


@lru_cache(maxsize=64)
def _areas(filter_name: Filter, size: int, out_size: int, start: float, end: float) -> Areas | None:
    """Return what a filter takes the means of; None where it is not so simple."""
    return areas(kernel_weights(filter_name, size, out_size, start, end))


@compiled
def _resize(
    rgb: UInt8[np.ndarray, "H W 3"],
    first_col: Int64[np.ndarray, " w"],
    col_weights: Int32[np.ndarray, "w a"],
    first_row: Int64[np.ndarray, " h"],
    row_weights: Int32[np.ndarray, "h b"],
    out: UInt8[np.ndarray, "h w 3"],
) -> None:
    """Resize: pixels are packed into 32 bits, and some rows stand side by side in memory.

    So the innermost loops run over neighbours that are all treated alike, eight at once.
    """
    begin, past = first_row[0], first_row[-1] + row_weights.shape[1]
    narrow = np.empty((past - begin, out.shape[1]), np.uint32)
    turned = np.zeros((rgb.shape[1], _ROWS), np.uint32)
    few, many = np.empty((3, _ROWS), np.int32), np.empty((3, out.shape[1]), np.int32)
    for top in range(begin, past, _ROWS):
        count = min(_ROWS, past - top)
        for row in range(count):
            for x in range(rgb.shape[1]):
                pixel = rgb[top + row, x]
                turned[x, row] = (
                    np.uint32(pixel[0]) | np.uint32(pixel[1]) << 8 | np.uint32(pixel[2]) << 16
                )
        for x in range(out.shape[1]):
            few[:] = _HALF
            for tap in range(col_weights.shape[1]):
                _add(turned[first_col[x] + tap], col_weights[x, tap], few)
            for row in range(count):
                narrow[top - begin + row, x] = (
                    _rounded(few[0, row]) | _rounded(few[1, row]) << 8 | _rounded(few[2, row]) << 16
                )
    for y in range(out.shape[0]):
        many[:] = _HALF
        for tap in range(row_weights.shape[1]):
            _add(narrow[first_row[y] - begin + tap], row_weights[y, tap], many)
        for x in range(out.shape[1]):
            for channel in range(3):
                out[y, x, channel] = _rounded(many[channel, x])


@compiled
def _add(
    pixels: UInt32[np.ndarray, " n"], weight: np.int32, sums: Int32[np.ndarray, "3 m"]
) -> None:
    red, green, blue = sums[0], sums[1], sums[2]
    for i in range(pixels.shape[0]):
        red[i] += weight * np.int32(pixels[i] & 255)
        green[i] += weight * np.int32((pixels[i] >> 8) & 255)
        blue[i] += weight * np.int32(pixels[i] >> 16)


@compiled
def _rounded(total: int) -> np.uint32:
    return np.uint32(min(max(total >> BITS, 0), 255))
