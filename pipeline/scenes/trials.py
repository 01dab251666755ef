"""How far the depths of pairs of views are apart under many readings at once, compiled.

A scene that fits is asked about seventy other readings of itself, and one that does not about twice
as many. Letters: R readings, h w a depth image, n readings of depth, m those of all pairs.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vega3d.pipeline.compiled import compiled
from vega3d.pipeline.scenes.medians import select
from vega3d.pipeline.scenes.reprojection import PosedDepth, grid_of

Cameras = tuple[Float64[np.ndarray, "R 3 3"], Float64[np.ndarray, "R 4 4"]]
"""Intrinsics and poses of a view, one a reading."""


def tried(
    pairs: Sequence[tuple[PosedDepth, PosedDepth]],
    cameras: Callable[[PosedDepth], Cameras],
    *,
    most_readings: int,
) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, " R"]]:
    """Return `agreement`'s error_share and met_share under each reading; NaN where nothing meets.

    Args:
        pairs: Views; the first one's depth is carried into the second.
        cameras: Says how each reading understands a view.
        most_readings: As `meet` takes it.
    """
    known = {id(view): cameras(view) for pair in pairs for view in pair}
    grids = [grid_of(first.depth_m.shape, most_readings) for first, _ in pairs]
    num_readings = len(next(iter(known.values()))[0])
    shares = np.empty((num_readings, sum(len(r) * len(c) for r, c in grids)))
    counts, carried = np.zeros(num_readings, dtype=np.int64), 0
    for (first, second), (rows, cols) in zip(pairs, grids, strict=True):
        (K_first, pose_first), (K_second, pose_second) = known[id(first)], known[id(second)]
        second_from_first = np.linalg.inv(pose_second) @ pose_first
        z = np.ascontiguousarray(first.depth_m[np.ix_(rows, cols)])
        carried += int(((z > 0) & np.isfinite(z)).sum())
        _carry(z, rows, cols, K_first, second_from_first, K_second, second.depth_m, shares, counts)
    medians = np.full(num_readings, np.nan)
    _medians(shares, counts, medians)
    return medians, counts / max(carried, 1)


@compiled
def _carry(
    depth_m: Float32[np.ndarray, "rows cols"],
    rows: Int64[np.ndarray, " rows"],
    cols: Int64[np.ndarray, " cols"],
    K_first: Float64[np.ndarray, "R 3 3"],
    second_from_first: Float64[np.ndarray, "R 4 4"],
    K_second: Float64[np.ndarray, "R 3 3"],
    there_m: Float32[np.ndarray, "h w"],
    shares: Float64[np.ndarray, "R m"],
    counts: Int64[np.ndarray, " R"],
) -> None:
    """Add a pair to each reading's distances, as shares of the depth; see `reprojection.meet`."""
    height, width = there_m.shape
    for reading in range(K_first.shape[0]):
        K, L, M = K_first[reading], K_second[reading], second_from_first[reading]
        count = counts[reading]
        for i in range(rows.shape[0]):
            for j in range(cols.shape[0]):
                z = np.float64(depth_m[i, j])
                if not (z > 0 and z < np.inf):
                    continue
                x = z * ((cols[j] + 0.5 - K[0, 2]) / K[0, 0])
                y = z * ((rows[i] + 0.5 - K[1, 2]) / K[1, 1])
                far = M[2, 0] * x + M[2, 1] * y + M[2, 2] * z + M[2, 3]
                if not far > 0:
                    continue
                right = M[0, 0] * x + M[0, 1] * y + M[0, 2] * z + M[0, 3]
                down = M[1, 0] * x + M[1, 1] * y + M[1, 2] * z + M[1, 3]
                col, row = right / far * L[0, 0] + L[0, 2], down / far * L[1, 1] + L[1, 2]
                if col >= 0 and col < width and row >= 0 and row < height:
                    there = np.float64(there_m[int(row), int(col)])
                    if there > 0 and there < np.inf:
                        shares[reading, count] = abs(far - there) / there
                        count += 1
        counts[reading] = count


@compiled
def _medians(
    shares: Float64[np.ndarray, "R m"],
    counts: Int64[np.ndarray, " R"],
    medians: Float64[np.ndarray, " R"],
) -> None:
    """Take the median of each row's first values, which loses their order."""
    for reading in range(counts.size):
        count = counts[reading]
        if count > 0:
            row = shares[reading, :count]
            lower = select(row, (count - 1) // 2)
            upper = lower if count % 2 else select(row, count // 2)
            medians[reading] = (lower + upper) / 2
