"""How far the depths of pairs of views are apart under many conventions at once, compiled.

A scene that fits is asked about seventy other conventions, and one that does not about twice
as many. Letters: R conventions, h w a depth image, n readings of depth, m those of all pairs.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vega3d.pipeline.compiled import compiled
from vega3d.pipeline.scenes.medians import select
from vega3d.pipeline.scenes.reprojection import PosedDepth, grid_of, thinned

Cameras = tuple[Float64[np.ndarray, "R 3 3"], Float64[np.ndarray, "R 4 4"]]
"""Intrinsics and poses of a view, one a convention."""


def tried(
    pairs: Sequence[tuple[PosedDepth, PosedDepth]],
    cameras: Callable[[PosedDepth], Cameras],
    *,
    most_readings: int,
    below: float = np.inf,
) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, " R"]]:
    """Return `agreement`'s error_share and met_share under each convention; NaN: nothing meets.

    Args:
        pairs: Views; the first one's depth is carried into the second.
        cameras: Says how each convention understands a view.
        most_readings: As `meet` takes it.
        below: A convention whose error_share is not below this is given inf, and no share of what
            met: it is let go as soon as that is certain.
    """
    views = {id(view): view for pair in pairs for view in pair}
    known = {key: cameras(view) for key, view in views.items()}
    inverse = {key: np.linalg.inv(poses) for key, (_, poses) in known.items()}
    grids = [grid_of(first.depth_m.shape, most_readings) for first, _ in pairs]
    num_conventions = len(next(iter(known.values()))[0])
    depths = [np.ascontiguousarray(thinned(first.depth_m, most_readings)) for first, _ in pairs]
    carried = sum(int(((z > 0) & np.isfinite(z)).sum()) for z in depths)
    shares = np.empty((num_conventions, sum(z.size for z in depths)))
    counts, apart = np.zeros((2, num_conventions), dtype=np.int64)
    for (first, second), (rows, cols), z in zip(pairs, grids, depths, strict=True):
        (K_first, pose_first), (K_second, _) = known[id(first)], known[id(second)]
        second_from_first = inverse[id(second)] @ pose_first
        left = np.flatnonzero(2 * apart <= carried)  # of the others more than half is too much
        _carry(
            z, rows, cols, left, K_first, second_from_first, K_second, second.depth_m, below,
            shares, counts, apart,
        )  # fmt: skip
    medians = np.full(num_conventions, np.nan)
    _medians(shares, counts, apart, below, medians)
    return medians, np.where(np.isinf(medians), 0.0, counts / max(carried, 1))


@compiled
def _carry(
    depth_m: Float32[np.ndarray, "rows cols"],
    rows: Int64[np.ndarray, " rows"],
    cols: Int64[np.ndarray, " cols"],
    left: Int64[np.ndarray, " r"],
    K_first: Float64[np.ndarray, "R 3 3"],
    second_from_first: Float64[np.ndarray, "R 4 4"],
    K_second: Float64[np.ndarray, "R 3 3"],
    there_m: Float32[np.ndarray, "h w"],
    below: float,
    shares: Float64[np.ndarray, "R m"],
    counts: Int64[np.ndarray, " R"],
    apart: Int64[np.ndarray, " R"],
) -> None:
    """Add a pair to the distances of the conventions left, as shares of the depth.

    `apart` counts those that are not below a bound; see `reprojection.meet`.
    """
    height, width = there_m.shape
    across, fars, there_cols, there_rows = np.empty((4, cols.shape[0]))
    for convention in left:
        K, L, M = K_first[convention], K_second[convention], second_from_first[convention]
        count = counts[convention]
        for j in range(cols.shape[0]):
            across[j] = (cols[j] + 0.5 - K[0, 2]) / K[0, 0]
        for i in range(rows.shape[0]):
            below_center = (rows[i] + 0.5 - K[1, 2]) / K[1, 1]
            for j in range(cols.shape[0]):  # without a branch: several at once
                z = np.float64(depth_m[i, j])
                x = z * across[j]
                y = z * below_center
                far = M[2, 0] * x + M[2, 1] * y + M[2, 2] * z + M[2, 3]
                right = M[0, 0] * x + M[0, 1] * y + M[0, 2] * z + M[0, 3]
                down = M[1, 0] * x + M[1, 1] * y + M[1, 2] * z + M[1, 3]
                fars[j] = far
                there_cols[j] = right / far * L[0, 0] + L[0, 2]
                there_rows[j] = down / far * L[1, 1] + L[1, 2]
            for j in range(cols.shape[0]):
                far, col, row = fars[j], there_cols[j], there_rows[j]
                if not (depth_m[i, j] > 0 and depth_m[i, j] < np.inf and far > 0):
                    continue
                if col >= 0 and col < width and row >= 0 and row < height:
                    there = np.float64(there_m[int(row), int(col)])
                    if there > 0 and there < np.inf:
                        share = abs(far - there) / there
                        shares[convention, count] = share
                        apart[convention] += share >= below
                        count += 1
        counts[convention] = count


@compiled
def _medians(
    shares: Float64[np.ndarray, "R m"],
    counts: Int64[np.ndarray, " R"],
    apart: Int64[np.ndarray, " R"],
    below: float,
    medians: Float64[np.ndarray, " R"],
) -> None:
    """Take the median of each row's first values, which loses their order; inf if not below.

    Where more than half of the values are not, both of the middle ones are not.
    """
    for convention in range(counts.size):
        count = counts[convention]
        if 2 * apart[convention] > count:
            medians[convention] = np.inf
        elif count > 0:
            row = shares[convention, :count]
            lower = select(row, (count - 1) // 2)
            upper = lower if count % 2 else select(row, count // 2)
            median = (lower + upper) / 2
            medians[convention] = median if median < below else np.inf
