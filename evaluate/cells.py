"""Tokens of a scene, and the cells (voxel, view) they fall into.

Letters: V views, h w token grid, C channels, N valid tokens, M cells. Positions are world metres.
Cells are sorted by voxel, then by view, so that a voxel's cells lie side by side.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vega3d.evaluate import fused
from vega3d.evaluate.config import Anchor, check_voxel
from vega3d.pipeline.errors import SceneError

_LARGEST_HALF = 0x7BFF
"""Bits of 65504."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The valid tokens of a scene, in the order of view, row, column."""

    values: Float[np.ndarray, "R C"]
    """Features: as they are stored where they are of half precision, else of length one."""

    xyz: Float[np.ndarray, "N 3"]
    view: Int[np.ndarray, " N"]
    position: Int[np.ndarray, " N"]
    """row * w + column."""

    num_views: int
    """Views of the scene, those without a valid token included."""

    rows: Int[np.ndarray, " N"] | None = None
    """Which of `values` are meant; all of them where left out."""

    @cached_property
    def places(self) -> Int[np.ndarray, " N"]:
        """The rows of `values` that are meant."""
        return np.arange(len(self.values)) if self.rows is None else self.rows

    @cached_property
    def unit(self) -> Float[np.ndarray, "N C"]:
        """Features divided by their L2 norm, in float32 at least; a zero norm stays zero."""
        if self.values.dtype != np.float16:
            return self.values if self.rows is None else self.values[self.rows]
        unit = np.empty((len(self.view), self.values.shape[1]), np.float32)
        fused.unit_rows(fused.readable(self.values), self.places, np.inf, unit)
        return unit

    @cached_property
    def num_directionless(self) -> int:
        """Tokens of zero norm."""
        # One look at the first channel spares most of them the search.
        if self.values.dtype == np.float16:
            maybe = self.places[self.values[self.places, 0] == 0]
            tops = fused.tops_of_halves(fused.readable(self.values), maybe)
            return int((tops == 0).sum())
        return int((~self.unit[self.unit[:, 0] == 0].any(axis=1)).sum())

    def check_halves(self) -> None:
        """Raise SceneError where a token of half precision is not finite."""
        if self.values.dtype != np.float16:
            return
        tops = fused.tops_of_halves(fused.readable(self.values), self.places)
        if bad := int((tops > _LARGEST_HALF).sum()):
            _refuse(bad, self.values[self.places], np.float32)

    def of_views(self, first: int, last: int) -> "Tokens":
        """Return the tokens of views first..last (both included), numbered from 0."""
        some = slice(*np.searchsorted(self.view, [first, last + 1]))
        return Tokens(
            self.values,
            self.xyz[some],
            self.view[some] - first,
            self.position[some],
            last - first + 1,
            self.places[some],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Which tokens lie in which voxel, seen from which view."""

    order: Int[np.ndarray, " N"]
    """Tokens sorted by cell."""

    starts: Int[np.ndarray, " starts"]
    """Cell m holds the tokens order[starts[m]:starts[m + 1]]; one entry more than cells."""

    voxel: Int[np.ndarray, " M"]
    """Number of a cell's voxel, rising."""

    view: Int[np.ndarray, " M"]

    def token_voxel(self) -> Int[np.ndarray, " N"]:
        """Return the number of each token's voxel."""
        voxel = np.empty(len(self.order), dtype=np.int64)
        voxel[self.order] = np.repeat(self.voxel, np.diff(self.starts))
        return voxel


def gather_tokens(
    features: Float[np.ndarray, "V h w C"],
    world_xyz: Float[np.ndarray, "V h w 3"],
    valid: Bool[np.ndarray, "V h w"],
    *,
    halves_checked: bool = True,
) -> Tokens:
    """Return the valid tokens; features of float16 stay as stored, others have length one.

    Features of float64 stay so; any other type is computed in float32.

    Args:
        features: Of each token.
        world_xyz: Its position, metres.
        valid: Which tokens are meant.
        halves_checked: Whether those of float16 are looked at here, a pass over memory, or by the
            sum over all pairs, which sees them anyway.

    Raises:
        SceneError: A valid token has a position or feature that is not finite, or features so large
            that their norm overflows.
        ValueError: The arrays do not belong together, or the mask is not boolean.
    """
    _check_shapes(features, world_xyz, valid)
    view, row, col = np.nonzero(valid)
    xyz = world_xyz[valid].astype(np.float64)
    if not np.isfinite(xyz).all():
        bad = int((~np.isfinite(xyz).all(axis=1)).sum())
        raise SceneError(
            f"{bad} of {len(xyz)} valid tokens have no finite world position; "
            "clear `valid` where there is no depth"
        )
    rows = np.flatnonzero(valid)
    values = features.reshape(-1, features.shape[3])
    if features.dtype == np.float16:
        tokens = Tokens(values, xyz, view, row * valid.shape[2] + col, len(valid), rows)
        if halves_checked:
            tokens.check_halves()
        return tokens
    kind = np.float64 if features.dtype == np.float64 else np.float32
    unit = np.empty((len(view), features.shape[3]), kind)
    wide = values if values.dtype == kind else values.astype(kind)
    bad = fused.unit_rows(fused.readable(wide), rows, float(np.finfo(kind).max), unit)
    if bad:
        _refuse(bad, features[valid], kind)
    return Tokens(unit, xyz, view, row * valid.shape[2] + col, len(valid))


def _refuse(bad: int, rows: Float[np.ndarray, "N C"], kind: type) -> None:
    """Say what is wrong with so many tokens of these."""
    if np.isfinite(rows).all():
        raise SceneError(
            f"{bad} of {len(rows)} valid tokens have features of up to "
            f"{np.abs(rows).max():.0e}, whose norm overflows in {np.dtype(kind)}; scale them down "
            "(the score does not see it) or pass float64"
        )
    raise SceneError(
        f"{bad} of {len(rows)} valid tokens have features that are not finite; "
        "clear `valid` where the coverage is 0, or extract in a wider type"
    )


def _check_shapes(features: np.ndarray, world_xyz: np.ndarray, valid: np.ndarray) -> None:
    """Raise ValueError unless the three arrays are of the same tokens and the mask is one."""
    if features.ndim != 4 or valid.shape != features.shape[:3] or not features.shape[3]:
        raise ValueError(
            "features must be [views, rows, columns, channels], at least one channel, and valid "
            "[views, rows, columns], "
            f"got {features.shape} and {valid.shape}; reshape tokens to their grid"
        )
    if world_xyz.shape != (*features.shape[:3], 3):
        raise ValueError(
            f"world_xyz must be {(*features.shape[:3], 3)}, one position a token, got "
            f"{world_xyz.shape}; resample positions to the token grid"
        )
    if valid.dtype != np.bool_:
        raise ValueError(
            f"valid must be boolean, got {valid.dtype}; compare it with a threshold: share > 0"
        )


def normalise(rows: Float[np.ndarray, "N C"], tiny: float = 0.0) -> int:
    """Divide each row by its norm in place; return how many norms are not finite.

    A row whose norm is at most `tiny` has no direction and becomes zero: its cosine with anything
    counts as 0.
    """
    with np.errstate(over="ignore"):  # the caller refuses such rows with their number
        norms = np.sqrt(np.vecdot(rows, rows))
    flat = norms <= tiny
    rows[flat] = 0.0
    norms[flat] = 1.0
    rows /= norms[:, None]
    return int((~np.isfinite(norms)).sum())


def no_direction(dtype: np.dtype[Any]) -> float:
    """Return the length of a sum of unit tokens that is rounding error of their cancelling out."""
    return 8 * float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)


def find_cells(
    xyz: Float[np.ndarray, "N 3"], view: Int[np.ndarray, " N"], voxel_m: float, anchor: Anchor
) -> Cells:
    """Sort tokens into cells: voxel = floor((xyz - anchor) / voxel_m) in float64.

    Raises:
        SceneError: The positions span more voxels than 62 bits can number.
    """
    check_voxel(voxel_m)
    if not len(xyz):
        none = np.zeros(0, dtype=np.int64)
        return Cells(none, np.zeros(1, dtype=np.int64), none, none)
    axes = np.ascontiguousarray(xyz.T)  # numpy is slow along three columns
    if anchor == "minimum":
        axes = axes - axes.min(axis=1, keepdims=True)
    voxel = np.floor(axes / voxel_m)
    voxel -= voxel.min(axis=1, keepdims=True)
    sides = voxel.max(axis=1) + 1
    num_views = int(view.max()) + 1
    if float(np.prod(sides)) * num_views > 2.0**62:
        raise SceneError(
            f"positions span {' x '.join(f'{side:.2g}' for side in sides)} voxels of {voxel_m} m; "
            "are they in metres?"
        )
    x, y, z = voxel.astype(np.int64)
    _, height, depth = sides.astype(np.int64)
    key = ((x * height + y) * depth + z) * num_views + view
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    first = np.flatnonzero(np.diff(sorted_key, prepend=-1))
    at, of = np.divmod(sorted_key[first], num_views)
    number = np.cumsum(np.diff(at, prepend=at[:1]) > 0)
    return Cells(order, np.append(first, len(order)), number, of)


def shared_cells(cells: Cells) -> Cells:
    """Return the cells whose voxel is seen from two views or more, with their tokens."""
    kept = (np.bincount(cells.voxel) > 1)[cells.voxel] if len(cells.voxel) else cells.voxel > 0
    counts = np.diff(cells.starts)
    return Cells(
        cells.order[np.repeat(kept, counts)],
        np.concatenate([[0], np.cumsum(counts[kept])]),
        cells.voxel[kept],
        cells.view[kept],
    )


def cell_vectors(unit: Float[np.ndarray, "N C"], cells: Cells) -> Float[np.ndarray, "M C"]:
    """Return each cell's feature: the mean of its unit tokens, of length one again.

    Tokens that cancel out leave a cell without direction, which stays zero.
    """
    vectors: np.ndarray = np.take(unit, cells.order[cells.starts[:-1]], axis=0)
    crowded = np.flatnonzero(np.diff(cells.starts) > 1)
    if len(crowded):
        sums = np.stack(
            [unit[cells.order[cells.starts[m] : cells.starts[m + 1]]].sum(axis=0) for m in crowded]
        )
        normalise(sums, tiny=no_direction(sums.dtype))
        vectors[crowded] = sums
    return vectors
