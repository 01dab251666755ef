"""Tokens of a scene, and the cells (voxel, view) they fall into.

Letters: V views, h w token grid, C channels, N valid tokens, M cells. Positions are world metres.
Cells are sorted by voxel, then by view, so that a voxel's cells lie side by side.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from vega3d.evaluate.config import Anchor, check_voxel
from vega3d.pipeline.errors import SceneError


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The valid tokens of a scene, in the order of view, row, column."""

    unit: Float[np.ndarray, "N C"]
    """Features divided by their L2 norm; a token of zero norm stays zero."""

    xyz: Float[np.ndarray, "N 3"]
    view: Int[np.ndarray, " N"]
    position: Int[np.ndarray, " N"]
    """row * w + column."""

    num_views: int
    """Views of the scene, those without a valid token included."""

    def of_views(self, first: int, last: int) -> "Tokens":
        """Return the tokens of views first..last (both included), numbered from 0."""
        rows = slice(*np.searchsorted(self.view, [first, last + 1]))
        return Tokens(
            self.unit[rows],
            self.xyz[rows],
            self.view[rows] - first,
            self.position[rows],
            last - first + 1,
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
) -> Tokens:
    """Return the valid tokens with features of length one.

    Features of float64 stay so; any other type is computed in float32.

    Raises:
        SceneError: A valid token has a position or feature that is not finite, or features so large
            that their norm overflows.
        ValueError: The arrays do not belong together, or the mask is not boolean.
    """
    _check_shapes(features, world_xyz, valid)
    view, row, col = np.nonzero(valid)
    xyz = world_xyz[valid].astype(np.float64)
    if bad := int((~np.isfinite(xyz).all(axis=1)).sum()):
        raise SceneError(
            f"{bad} of {len(xyz)} valid tokens have no finite world position; "
            "clear `valid` where there is no depth"
        )
    precise = features.dtype == np.float64
    unit = np.empty((len(view), features.shape[3]), np.float64 if precise else np.float32)
    bounds = np.searchsorted(view, np.arange(len(valid) + 1))
    bad = 0
    for v, (start, stop) in enumerate(pairwise(bounds)):  # a view at a time stays in the cache
        rows = features[v].reshape(-1, features.shape[3])
        rows = rows if len(rows) == stop - start else rows[valid[v].ravel()]
        _widen(rows, unit[start:stop])
        bad += normalise(unit[start:stop])
    if bad:
        rows = features[valid]
        if np.isfinite(rows).all():
            raise SceneError(
                f"{bad} of {len(unit)} valid tokens have features of up to "
                f"{np.abs(rows).max():.0e}, whose norm overflows in {unit.dtype}; scale them down "
                "(the score does not see it) or pass float64"
            )
        raise SceneError(
            f"{bad} of {len(unit)} valid tokens have features that are not finite; "
            "clear `valid` where the coverage is 0, or extract in a wider type"
        )
    return Tokens(unit, xyz, view, row * valid.shape[2] + col, len(valid))


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


def _widen(rows: Float[np.ndarray, "N C"], out: Float[np.ndarray, "N C"]) -> None:
    """Copy rows into a wider type; half precision by table, 2.5 times as fast as numpy's way."""
    if rows.dtype == np.float16:
        np.take(_single_of_half(), rows.view(np.uint16), out=out, mode="wrap")
    else:
        out[...] = rows


@cache
def _single_of_half() -> Float[np.ndarray, " 65536"]:
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


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
    voxel = np.floor((xyz - (xyz.min(axis=0) if anchor == "minimum" else 0.0)) / voxel_m)
    voxel -= voxel.min(axis=0)
    sides = voxel.max(axis=0) + 1
    num_views = int(view.max()) + 1
    if float(np.prod(sides)) * num_views > 2.0**62:
        raise SceneError(
            f"positions span {' x '.join(f'{side:.2g}' for side in sides)} voxels of {voxel_m} m; "
            "are they in metres?"
        )
    x, y, z = voxel.astype(np.int64).T
    _, height, depth = sides.astype(np.int64)
    key = ((x * height + y) * depth + z) * num_views + view
    order = np.argsort(key, kind="stable")
    cell_key, first = np.unique(key[order], return_index=True)
    number = np.unique(cell_key // num_views, return_inverse=True)[1]
    return Cells(order, np.append(first, len(order)), number, cell_key % num_views)


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
        normalise(sums, tiny=float(np.finfo(sums.dtype).eps) * 8)
        vectors[crowded] = sums
    return vectors


def cell_rows(
    unit: Float[np.ndarray, "N C"], cells: Cells
) -> tuple[Float[np.ndarray, "rows C"], Int[np.ndarray, " M"]]:
    """Return an array and, for each cell, the row of it that holds the cell's feature.

    Where no cell has a second token that array is `unit` itself, and nothing is copied.
    """
    if len(cells.order) == len(cells.voxel):
        return unit, cells.order
    return cell_vectors(unit, cells), np.arange(len(cells.voxel))
