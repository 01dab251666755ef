"""Sums over tokens in one sweep each, compiled: what is stored is widened in a register.

Numpy would make a float32 copy of all features and a float64 copy of each block of them, and visit
each several times. Here a token is read once, brought to length one in float64 and added where it
belongs; whatever is summed fits in the cache. Letters as in cells.py, and R rows of which tokens
are some: `rows` says which.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int
from numba.core import types
from numba.extending import overload

from vega3d.pipeline.compiled import compiled_with
from vega3d.pipeline.store.one_pass import float_of_half

_summing = compiled_with("reassoc", "contract", "nsz")
"""Sums over channels in any order."""


def readable(values: Float[np.ndarray, "R C"]) -> np.ndarray:
    """Return an array as the functions below take it: half precision by its bits."""
    native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    return native.view(np.uint16) if native.dtype == np.float16 else native


def _wide(value: Any) -> Any:  # noqa: ANN401 - compiled for each type
    """Return a stored number in float64; see below."""
    raise NotImplementedError


@overload(_wide, inline="always")
def _(value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - numba compares signatures
    if isinstance(value, types.Integer):
        return lambda value: np.float64(float_of_half(value))
    return lambda value: np.float64(value)


@_summing
def _inverse_norm(values: np.ndarray, row: int) -> float:
    """Return 1 over a token's norm: 0 of a token of zeros, NaN of one that is not finite."""
    square = 0.0
    for c in range(values.shape[1]):
        square += _wide(values[row, c]) * _wide(values[row, c])
    if not square < np.inf:
        return np.nan
    return 1.0 / np.sqrt(square) if square > 0.0 else 0.0


@_summing
def unit_rows(
    values: np.ndarray, rows: Int[np.ndarray, " N"], limit: float, out: Float[np.ndarray, "N C"]
) -> int:
    """Write tokens of length one, a token of zero norm as zeros; return how many norms overflow.

    Args:
        values: From `readable`.
        rows: Which of them.
        limit: A squared norm above it, or one that is not a number, overflows.
        out: Where they are written.
    """
    bad = 0
    for n in range(len(rows)):
        row = values[rows[n]]
        square = 0.0
        for c in range(row.shape[0]):
            square += _wide(row[c]) * _wide(row[c])
        bad += not square <= limit
        scale = 1.0 / np.sqrt(square) if square > 0.0 else 0.0
        for c in range(row.shape[0]):
            out[n, c] = _wide(row[c]) * scale
    return bad


@_summing
def tops_of_halves(bits: np.ndarray, rows: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Return the largest bits of each token without their sign.

    0 for zeros, above 0x7BFF for what is not finite, above 0x7C00 for NaN.
    """
    tops = np.empty(len(rows), np.int64)
    for n in range(len(rows)):
        row = bits[rows[n]]
        top = np.uint16(0)
        for c in range(row.shape[0]):
            top = max(top, np.uint16(row[c] & np.uint16(0x7FFF)))
        tops[n] = top
    return tops


@_summing
def treated_rows(
    unit: Float[np.ndarray, "N C"],
    shift: Float64[np.ndarray, " C"],
    scale: Float64[np.ndarray, " C"],
    tiny: float,
    out: Float[np.ndarray, "N C"],
) -> None:
    """Write (unit - shift) * scale of length one; what is no longer than `tiny` becomes zero."""
    for n in range(len(unit)):
        square = 0.0
        for c in range(unit.shape[1]):
            value = (unit[n, c] - shift[c]) * scale[c]
            square += value * value
        norm = np.sqrt(square)
        inverse = 1.0 / norm if norm > tiny else 0.0
        for c in range(unit.shape[1]):
            out[n, c] = (unit[n, c] - shift[c]) * scale[c] * inverse


@_summing
def sums_of_channels(
    unit: Float[np.ndarray, "N C"],
    total: Float64[np.ndarray, " C"],
    squares: Float64[np.ndarray, " C"],
) -> None:
    """Add tokens and their squares."""
    for n in range(len(unit)):
        for c in range(unit.shape[1]):
            value = np.float64(unit[n, c])
            total[c] += value
            squares[c] += value * value


@_summing
def norms_of_sums(
    unit: Float[np.ndarray, "N C"],
    tokens: Int[np.ndarray, " N"],
    starts: Int[np.ndarray, " starts"],
) -> Float64[np.ndarray, " M"]:
    """Return the length of the sum of each cell's tokens.

    Args:
        unit: Tokens of length one, or zero.
        tokens: Rows of it, sorted by cell.
        starts: Where each cell begins in `tokens`; the end is the last.
    """
    norms = np.empty(len(starts) - 1)
    total = np.empty(unit.shape[1])
    for m in range(len(norms)):
        total[:] = 0.0
        for n in range(starts[m], starts[m + 1]):
            row = unit[tokens[n]]
            for c in range(len(total)):
                total[c] += row[c]
        square = 0.0
        for c in range(len(total)):
            square += total[c] * total[c]
        norms[m] = np.sqrt(square)
    return norms


@_summing
def _square(total: Float64[np.ndarray, " C"]) -> float:
    square = 0.0
    for c in range(len(total)):
        square += total[c] * total[c]
    return square


@_summing
def _add_one(row: np.ndarray, scale: float, total: Float64[np.ndarray, " C"]) -> None:
    for c in range(len(total)):
        total[c] += _wide(row[c]) * scale


@_summing
def _add_two(
    one: np.ndarray,
    scale: float,
    other: np.ndarray,
    other_scale: float,
    total: Float64[np.ndarray, " C"],
) -> None:
    """Add two tokens at once: sums are read and written half as often."""
    for c in range(len(total)):
        total[c] += _wide(one[c]) * scale + _wide(other[c]) * other_scale


@_summing
def view_sums(
    values: np.ndarray,
    rows: Int[np.ndarray, " N"],
    cell: Int[np.ndarray, " N"],
    starts: Int[np.ndarray, " starts"],
    view: Int[np.ndarray, " M"],
    of_views: Float64[np.ndarray, "V C"],
) -> Float64[np.ndarray, " N"]:
    """Add up by view the tokens that are alone in their cells; return the inverse norms of all.

    The norm of a token that is not finite comes back as NaN, whatever cell it lies in. Tokens of a
    view follow one another, so that its sum stays in the innermost cache.

    Args:
        values: From `readable`.
        rows: Of it, of each token, in the order of the views.
        cell: Of each token; below 0 of one that does not count.
        starts: Where each cell begins among the tokens sorted by cell; the end is the last.
        view: Of each cell.
        of_views: Sums of tokens of length one, to be added to.
    """
    inverse = np.empty(len(rows))
    waiting = -1  # a token that goes with the next one of its view
    for n in range(len(rows)):
        m = cell[n]
        inverse[n] = _inverse_norm(values, rows[n])
        if m < 0 or starts[m + 1] - starts[m] > 1:
            continue
        if waiting >= 0 and view[cell[waiting]] == view[m]:
            row, other = values[rows[waiting]], values[rows[n]]
            _add_two(row, inverse[waiting], other, inverse[n], of_views[view[m]])
            waiting = -1
            continue
        if waiting >= 0:
            views = of_views[view[cell[waiting]]]
            _add_one(values[rows[waiting]], inverse[waiting], views)
        waiting = n
    if waiting >= 0:
        _add_one(values[rows[waiting]], inverse[waiting], of_views[view[cell[waiting]]])
    return inverse


@_summing
def voxel_sums(
    values: np.ndarray,
    tokens: Int[np.ndarray, " N"],
    inverse: Float64[np.ndarray, " N"],
    starts: Int[np.ndarray, " starts"],
    view: Int[np.ndarray, " M"],
    bounds: Int[np.ndarray, " bounds"],
    tiny: float,
    of_views: Float64[np.ndarray, "V C"],
) -> Float64[np.ndarray, " voxels"]:
    """Return the sum of cosines over the pairs of each voxel's cells.

    Args:
        values: From `readable`.
        tokens: Rows of it, sorted by cell.
        inverse: Of each one's norm.
        starts: Where each cell begins in `tokens`; the end is the last.
        view: Of each cell.
        bounds: Where each voxel begins among the cells; the end is the last.
        tiny: A cell of several tokens whose sum is no longer has no direction.
        of_views: Sums of cells of length one; those of several tokens are added here.
    """
    channels = values.shape[1]
    found = np.empty(len(bounds) - 1)
    total, cell = np.empty(channels), np.empty(channels)
    for k in range(len(found)):
        total[:] = 0.0
        directed = 0
        waiting = -1
        for m in range(bounds[k], bounds[k + 1]):
            first, last = starts[m], starts[m + 1]
            if last - first == 1:  # most are
                directed += inverse[first] > 0.0
                if waiting < 0:
                    waiting = first
                    continue
                row, other = values[tokens[waiting]], values[tokens[first]]
                _add_two(row, inverse[waiting], other, inverse[first], total)
                waiting = -1
                continue
            cell[:] = 0.0
            for n in range(first, last):
                _add_one(values[tokens[n]], inverse[n], cell)
            norm = np.sqrt(_square(cell))
            if norm > tiny:
                directed += 1
                views = of_views[view[m]]
                for c in range(channels):
                    value = cell[c] / norm
                    total[c] += value
                    views[c] += value
        if waiting >= 0:
            _add_one(values[tokens[waiting]], inverse[waiting], total)
        found[k] = (_square(total) - directed) / 2.0
    return found


@_summing
def apart_sum(
    values: np.ndarray,
    tokens: Int[np.ndarray, " N"],
    places: Int[np.ndarray, " places"],
    groups: Int[np.ndarray, " groups"],
) -> float:
    """Return the sum of cosines over pairs of tokens of one group and two places.

    Args:
        values: From `readable`.
        tokens: Rows of it, sorted by group and place.
        places: Where each place begins; the end is the last.
        groups: Where each group begins among the places; the end is the last.
    """
    channels = values.shape[1]
    every, place = np.empty(channels), np.empty(channels)
    total = 0.0
    for group in range(len(groups) - 1):
        if groups[group + 1] - groups[group] < 2:
            continue
        every[:] = 0.0
        within = 0.0
        for k in range(groups[group], groups[group + 1]):
            place[:] = 0.0
            for n in range(places[k], places[k + 1]):
                _add_one(values[tokens[n]], _inverse_norm(values, tokens[n]), place)
            for c in range(channels):
                within += place[c] * place[c]
                every[c] += place[c]
        total += (_square(every) - within) / 2.0
    return total
