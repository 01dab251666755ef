"""Medians of the world positions of each cell's depth pixels, compiled: numpy's own bits.

Numpy parts every cell's values, which a processor cannot foresee. Here it is guessed where the
middle one lies, and counted how many are no greater, some times over.
Letters: h w a depth image, gh gw the token grid.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64

from vega3d.pipeline.compiled import compiled

_INFINITY, _LARGEST = 0x7F800000, 0x7FFFFFFF
"""Bits of a float32, and its bits without the sign."""


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


def median(values: Float32[np.ndarray, " n"]) -> float:
    """Return the median of one number or more, none of them NaN."""
    return float(_median(np.array(values, dtype=np.float32)))


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
    seen = np.empty((3, most), np.float32)
    is_plain = np.isfinite(row_slopes).all() and np.isfinite(col_slopes).all()
    is_plain = is_plain and np.isfinite(origin).all()
    for i in range(rows.shape[0]):
        for j in range(cols.shape[0]):
            count = _read(depth_m, row_slopes, col_slopes, origin, rows[i], cols[j], is_plain, seen)
            if count > 0:
                total = (rows[i, 1] - rows[i, 0]) * (cols[j, 1] - cols[j, 0])
                depth_share[i, j] = count / total
                for axis in range(3):
                    world_xyz[i, j, axis] = _median(seen[axis, :count])


@compiled
def _read(
    depth_m: Float32[np.ndarray, "h w"],
    row_slopes: Float32[np.ndarray, "3 h"],
    col_slopes: Float32[np.ndarray, "3 w"],
    origin: Float32[np.ndarray, " 3"],
    rows: Int64[np.ndarray, " 2"],
    cols: Int64[np.ndarray, " 2"],
    is_plain: bool,
    seen: Float32[np.ndarray, "3 m"],
) -> int:
    """Put a cell's positions into `seen`, and count them; `is_plain` where cameras are finite."""
    count, width = 0, cols[1] - cols[0]
    for row in range(rows[0], rows[1]):
        line = depth_m[row, cols[0] : cols[1]]
        largest = np.uint32(0)
        for bits in line.view(np.uint32):  # what is no reading is 0, or no less than infinity
            largest = max(largest, np.uint32(bits - np.uint32(1)))
        if is_plain and largest < _INFINITY - 1:  # all pixels alike, many at once
            for axis in range(3):
                slope, along = row_slopes[axis, row], col_slopes[axis, cols[0] : cols[1]]
                offset, places = origin[axis], seen[axis, count : count + width]
                for k in range(width):
                    places[k] = (slope + along[k]) * line[k] + offset
            count += width
            continue
        x_row, y_row, z_row = row_slopes[0, row], row_slopes[1, row], row_slopes[2, row]
        for k in range(width):
            if not (line[k] > 0 and line[k] < np.inf):
                continue
            col = cols[0] + k
            x = (x_row + col_slopes[0, col]) * line[k] + origin[0]
            y = (y_row + col_slopes[1, col]) * line[k] + origin[1]
            z = (z_row + col_slopes[2, col]) * line[k] + origin[2]
            if x == x and y == y and z == z:
                seen[0, count], seen[1, count], seen[2, count] = x, y, z
                count += 1
    return count


@compiled
def _median(values: Float32[np.ndarray, " n"]) -> Any:  # noqa: ANN401 - a float32, compiled
    """Return the mean of the two middle values; the array's bits become ranks."""
    ranks = values.view(np.int32)
    least, largest = np.int32(_LARGEST), np.int32(-_LARGEST)
    for k in range(ranks.size):
        rank = _rank_of(ranks[k])
        ranks[k] = rank
        least, largest = min(least, rank), max(largest, rank)
    first, last = (ranks.size - 1) // 2, ranks.size // 2
    one, upto = _of_order(ranks, first, least, largest)
    other = one if upto > last else _around(ranks, one)[1]
    return (_value_of(one) + _value_of(other)) / np.float32(2)


@compiled
def _of_order(
    ranks: Int32[np.ndarray, " n"], k: int, least: np.int32, largest: np.int32
) -> tuple[np.int32, int]:
    """Return the rank that k others lie before in order, and how many are no greater.

    It is greater than `low` and no greater than `high`; every guess moves one of them to a rank
    that there is. A guess takes values for evenly spread, and every third halves the ranks.
    """
    low, below, high, upto, step = np.int32(least - 1), 0, largest, ranks.size, 0
    while np.int64(high) > np.int64(low) + 1:
        share = np.float32((k + 0.5 - below) / (upto - below))
        value = _value_of(low) + share * (_value_of(high) - _value_of(low))
        guess = np.int64(_rank_of(np.float32(value).view(np.int32)))
        if step % 3 == 2:
            guess = (np.int64(low) + np.int64(high)) >> 1
        guess = min(max(guess, np.int64(low) + 1), np.int64(high) - 1)
        count, above, no_greater = _around(ranks, np.int32(guess))
        if count > k:
            high, upto = no_greater, count
        else:
            low, below = np.int32(above - 1), count
        step += 1
    return high, upto


@compiled
def _around(ranks: Int32[np.ndarray, " n"], guess: np.int32) -> tuple[int, np.int32, np.int32]:
    """Return how many ranks are no greater than a guess, the next greater, and the last no greater.

    Integers, of which the processor compares many at once.
    """
    count, above, upto = np.int32(0), np.int32(_LARGEST), np.int32(-_LARGEST)
    for k in range(ranks.size):
        rank = ranks[k]
        is_upto = rank <= guess
        count += np.int32(is_upto)
        above = min(above, np.int32(_LARGEST) if is_upto else rank)
        upto = max(upto, rank if is_upto else np.int32(-_LARGEST))
    return int(count), above, upto


@compiled
def _rank_of(bits: np.int32) -> np.int32:
    """Return where a float's bits come among all floats' as an integer; of that, the bits."""
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(_LARGEST)))


@compiled
def _value_of(rank: np.int32) -> np.float32:
    return np.int32(_rank_of(rank)).view(np.float32)


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
