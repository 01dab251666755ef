"""Means of areas of 8-bit RGB as Pillow's box filter takes them, in half of the general way's time.

All pixels of an area weigh the same there, so their bytes are summed and multiplied once. Sums of
so many neighbours are taken at every place of a row, 64 at a time, and the few that are wanted are
picked: quicker than adding for each of them. Letters: H W an image, h w the wanted size, n the
bytes of a row.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8, UInt16, UInt32

from vega3d.pipeline.compiled import bare, compiled

_MOST_PIXELS = 256
"""Of an area along an axis: their bytes' sum fits into 16 bits."""


class Areas(NamedTuple):
    """Which pixels are one, along an axis."""

    first: Int64[np.ndarray, " size"]
    pixels: Int64[np.ndarray, " size"]
    weight: UInt32[np.ndarray, " size"]
    """Of each, in units of the last bit."""


def areas(weights: Float64[np.ndarray, "out_size size"]) -> Areas | None:
    """Return the areas that a kernel's weights are means of; None where `box_means` takes none.

    It takes areas that differ by a pixel at most.
    """
    used = weights != 0
    count = used.sum(axis=1)
    most = count.max()
    flat = np.array_equal(weights.max(axis=1, keepdims=True) * used, weights)
    if not flat or most - count.min() > 1 or most > _MOST_PIXELS or used.shape[1] <= most:
        return None
    return Areas(used.argmax(axis=1), count, weights.max(axis=1).astype(np.uint32))


def box_means(
    rgb: UInt8[np.ndarray, "H W 3"], cols: Areas, rows: Areas, bits: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the mean of each area, along the rows first, rounded to 8 bits after each axis.

    Args:
        rgb: The image, in one piece.
        cols: Areas along its rows.
        rows: Areas along its columns.
        bits: Of the weights, behind the point.
    """
    out = np.empty((len(rows.first), len(cols.first), 3), dtype=np.uint8)
    fewest = int(cols.pixels.min())
    # Both kinds of sums stand in one array, those of one pixel more behind the others.
    behind = np.where(cols.pixels > fewest, 3 * (rgb.shape[1] - fewest + 1), 0)
    places = (3 * cols.first + behind)[:, None] + np.arange(3)
    weights = np.repeat(cols.weight, 3)
    _means(rgb, fewest, places.reshape(-1).astype(np.int32), weights, rows, np.uint32(bits), out)
    return out


@compiled
def _means(
    rgb: UInt8[np.ndarray, "H W 3"],
    fewest: int,
    places: Int32[np.ndarray, " w3"],
    weights: UInt32[np.ndarray, " w3"],
    rows: Areas,
    bits: np.uint32,
    out: UInt8[np.ndarray, "h w 3"],
) -> None:
    begin, past = rows.first[0], rows.first[-1] + rows.pixels[-1]
    sums = np.zeros((2, 3 * (rgb.shape[1] - fewest + 1)), np.uint16)
    narrow = np.empty((past - begin, places.size), np.uint8)
    for y in range(past - begin):
        _sums(rgb[begin + y].reshape(-1), fewest, sums[0], sums[1])
        _picked(sums.reshape(-1), places, weights, bits, narrow[y])
    total = np.empty(places.size, np.uint32)
    for y in range(out.shape[0]):
        total[:] = 0
        for row in range(rows.first[y] - begin, rows.first[y] - begin + rows.pixels[y]):
            _added(narrow[row], total)
        _rounded(total, rows.weight[y], bits, out[y].reshape(-1))


@bare
def _sums(
    row: UInt8[np.ndarray, " n"],
    fewest: int,
    less: UInt16[np.ndarray, " m"],
    more: UInt16[np.ndarray, " m"],
) -> None:
    """Sum so many pixels from each byte on, and one more of them."""
    less[:] = 0
    fours = fewest // 4 * 4
    for pixel in range(0, fours, 4):
        _add_four(row[3 * pixel :], less)
    for pixel in range(fours, fewest):
        _add(row[3 * pixel :], less)
    for i in range(more.shape[0]):
        more[i] = less[i]
    _add(row[3 * fewest :], more[: more.size - 3])


@bare
def _add_four(row: UInt8[np.ndarray, " n"], sums: UInt16[np.ndarray, " m"]) -> None:
    for i in range(sums.shape[0]):
        near = np.uint16(row[i]) + np.uint16(row[i + 3])
        sums[i] += near + np.uint16(row[i + 6]) + np.uint16(row[i + 9])


@bare
def _add(row: UInt8[np.ndarray, " n"], sums: UInt16[np.ndarray, " m"]) -> None:
    for i in range(sums.shape[0]):
        sums[i] = np.uint16(sums[i] + np.uint16(row[i]))


@bare
def _picked(
    sums: UInt16[np.ndarray, " m2"],
    places: Int32[np.ndarray, " w3"],
    weights: UInt32[np.ndarray, " w3"],
    bits: np.uint32,
    out: UInt8[np.ndarray, " w3"],
) -> None:
    half = np.uint32(1) << (bits - np.uint32(1))
    for i in range(out.size):
        out[i] = np.uint8((np.uint32(sums[places[i]]) * weights[i] + half) >> bits)


@bare
def _added(row: UInt8[np.ndarray, " w3"], total: UInt32[np.ndarray, " w3"]) -> None:
    for i in range(total.size):
        total[i] += row[i]


@bare
def _rounded(
    total: UInt32[np.ndarray, " w3"],
    weight: np.uint32,
    bits: np.uint32,
    out: UInt8[np.ndarray, " w3"],
) -> None:
    half = np.uint32(1) << (bits - np.uint32(1))
    for i in range(out.size):
        out[i] = np.uint8((total[i] * weight + half) >> bits)
