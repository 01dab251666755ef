"""Medians of the world positions of each cell's depth pixels, compiled: numpy's own bits.

Numpy parts every cell's values three times over. Here a cell's values are counted into bins first,
so that only those of the middle bin are looked at again. Letters: h w a depth image, gh gw the
token grid.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from vega3d.pipeline.compiled import compiled

_BINS = 256


def cell_medians(
    depth_m: Float32[np.ndarray, "h w"],
    row_slopes: Float32[np.ndarray, "3 h"],
    col_slopes: Float32[np.ndarray, "3 w"],
    origin: Float32[np.ndarray, " 3"],
    rows: Int64[np.ndarray, "gh 2"],
    cols: Int64[np.ndarray, "gw 2"],
) -> tuple[Float32[np.ndarray, "gh gw 3"], Float32[np.ndarray, "gh gw"]]:
    """Return each cell's median position, NaN where nothing is read, and its share of readings.

    Args:
        depth_m: z-depth; what is not finite or not positive is no reading.
        row_slopes: World position is `(row_slope + col_slope) * depth + origin`, axis by axis.
        col_slopes: Likewise.
        origin: Likewise.
        rows: First and past-last depth row of each cell.
        cols: Likewise.
    """
    grid = (len(rows), len(cols))
    world_xyz = np.full((*grid, 3), np.nan, dtype=np.float32)
    depth_share = np.zeros(grid, dtype=np.float32)
    slopes = np.ascontiguousarray(row_slopes), np.ascontiguousarray(col_slopes)
    _cell_medians(
        np.ascontiguousarray(depth_m), *slopes, origin, rows, cols, world_xyz, depth_share
    )
    return world_xyz, depth_share


@compiled
def _cell_medians(
    depth_m: Float32[np.ndarray, "h w"],
    row_slopes: Float32[np.ndarray, "3 h"],
    col_slopes: Float32[np.ndarray, "3 w"],
    origin: Float32[np.ndarray, " 3"],
    rows: Int64[np.ndarray, "gh 2"],
    cols: Int64[np.ndarray, "gw 2"],
    world_xyz: Float32[np.ndarray, "gh gw 3"],
    depth_share: Float32[np.ndarray, "gh gw"],
) -> None:
    most = 1
    for i in range(rows.shape[0]):
        for j in range(cols.shape[0]):
            most = max(most, (rows[i, 1] - rows[i, 0]) * (cols[j, 1] - cols[j, 0]))
    seen, middle = np.empty((3, most), np.float32), np.empty(most, np.float32)
    counts = np.empty(_BINS + 1, np.int64)
    for i in range(rows.shape[0]):
        for j in range(cols.shape[0]):
            count = 0
            for row in range(rows[i, 0], rows[i, 1]):
                for col in range(cols[j, 0], cols[j, 1]):
                    z = depth_m[row, col]
                    known = (z > 0) & (z < np.inf)
                    for axis in range(3):
                        slope = row_slopes[axis, row] + col_slopes[axis, col]
                        place = slope * z + origin[axis]
                        seen[axis, count] = place  # the next one's where this is no reading
                        known &= place == place
                    count += known
            if count > 0:
                total = (rows[i, 1] - rows[i, 0]) * (cols[j, 1] - cols[j, 0])
                depth_share[i, j] = count / total
                for axis in range(3):
                    world_xyz[i, j, axis] = _median(seen[axis, :count], middle, counts)


@compiled
def _median(
    values: Float32[np.ndarray, " n"],
    middle: Float32[np.ndarray, " m"],
    counts: Int64[np.ndarray, " bins"],
) -> Any:  # noqa: ANN401 - a float32, compiled
    """Return the mean of the two middle values; `middle` and `counts` are room to work in."""
    low = high = values[0]
    for value in values:
        low, high = min(low, value), max(high, value)
    if low == high:
        return low
    scale = np.float32(_BINS) / (high - low)
    first, last = (values.size - 1) // 2, values.size // 2
    if not scale < np.inf or high - low == np.inf:
        kept = values.size
        middle[:kept] = values
    else:
        # Rounding is the same way for all: a larger value is in no smaller bin.
        counts[:] = 0
        for value in values:
            counts[int((value - low) * scale)] += 1
        bin_low = before = 0
        while before + counts[bin_low] <= first:
            before += counts[bin_low]
            bin_low += 1
        bin_high, past = bin_low, before + counts[bin_low]
        while past <= last:
            bin_high += 1
            past += counts[bin_high]
        kept = 0
        for value in values:
            place = int((value - low) * scale)
            if bin_low <= place <= bin_high:
                middle[kept] = value
                kept += 1
        first, last = first - before, last - before
    part = middle[:kept]
    one = select(part, first)
    other = one if last == first else select(part, last)
    return (one + other) / np.float32(2)


@compiled
def select(values: Float[np.ndarray, " n"], k: int) -> Any:  # noqa: ANN401
    """Return the value of rank k, and part the array where it lies: what is left is in no order."""
    low, high = 0, values.size - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]
