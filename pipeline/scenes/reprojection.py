"""Depth carried from one view into another: how far it lies from the depth that is read there.

Letters: h w a depth image, n the readings that meet a reading. Cameras and pixels follow `scene`.
Nothing here reads a file; `diagnosis` says what the numbers mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

_MOST_READINGS = 3000
"""Readings of a view that are carried over, on a regular grid: medians of the three real captures
stay within 0.2 mm of those over all pixels."""


@dataclass(frozen=True, slots=True)
class PosedDepth:
    """A depth image and the camera that took it."""

    depth_m: Float32[np.ndarray, "h w"]
    """z-depth, metres; 0 means no reading."""

    K: Float[np.ndarray, "3 3"]
    world_from_camera: Float[np.ndarray, "4 4"]


@dataclass(frozen=True, slots=True)
class Met:
    """Readings of one view that fall on a reading of another."""

    gap_m: Float64[np.ndarray, " n"]
    """How much deeper each lies there than what is read; negative where it lies before it."""

    depth_m: Float64[np.ndarray, " n"]
    """What is read there."""

    num_carried: int
    """Readings that were carried over, these included."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the depths of several pairs of views agree."""

    error_m: float
    """Median over the pairs of the median distance along the axis; NaN where nothing meets."""

    error_share: float
    """Median distance as a share of the depth, over the readings of all pairs; NaN likewise."""

    met_share: float
    """Share of the readings that meet another."""


def meet(first: PosedDepth, second: PosedDepth, *, most_readings: int = _MOST_READINGS) -> Met:
    """Carry depth readings of the first view into the second, and look up what is read there.

    The reading of the pixel that a point falls into is taken, without interpolation. Points behind
    the second camera, outside its image, and where it has no reading meet nothing. Hidden points
    meet what hides them: they are outliers to a median as long as they are the fewer.

    Args:
        first: Its readings are carried over, at most `most_readings` on a regular grid.
        second: Its readings are looked up.
        most_readings: See `first`.
    """
    rows, cols = grid_of(first.depth_m.shape, most_readings)
    z = thinned(first.depth_m, most_readings).astype(np.float64)
    x = z * ((cols + 0.5 - first.K[0, 2]) / first.K[0, 0])
    y = z * ((rows + 0.5 - first.K[1, 2]) / first.K[1, 1])[:, None]
    is_reading = (z > 0) & np.isfinite(z)
    xyz = np.stack([x[is_reading], y[is_reading], z[is_reading]])
    second_from_first = np.linalg.inv(second.world_from_camera) @ first.world_from_camera
    # Not `@`: a BLAS may add three numbers in another order on another machine.
    x, y, z = (
        part[0] * xyz[0] + part[1] * xyz[1] + part[2] * xyz[2] + part[3]
        for part in second_from_first[:3]
    )
    height, width = second.depth_m.shape
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        col = x / z * second.K[0, 0] + second.K[0, 2]
        row = y / z * second.K[1, 1] + second.K[1, 2]
        inside = (z > 0) & (col >= 0) & (col < width) & (row >= 0) & (row < height)
    z = z[inside]
    there = second.depth_m[row[inside].astype(np.int64), col[inside].astype(np.int64)]
    met = (there > 0) & np.isfinite(there)
    depth_m = there[met].astype(np.float64)
    return Met(z[met] - depth_m, depth_m, xyz.shape[1])


def agreement(
    pairs: Sequence[tuple[PosedDepth, PosedDepth]], *, most_readings: int = _MOST_READINGS
) -> Agreement:
    """Return how well the depths of pairs of views agree."""
    found = [meet(first, second, most_readings=most_readings) for first, second in pairs]
    carried = sum(one.num_carried for one in found)
    medians = [float(np.median(np.abs(one.gap_m))) for one in found if one.gap_m.size]
    if not medians:
        return Agreement(np.nan, np.nan, 0.0)
    shares = np.concatenate([np.abs(one.gap_m) / one.depth_m for one in found])
    return Agreement(
        float(np.median(medians)), float(np.median(shares)), shares.size / max(carried, 1)
    )


def grid_of(shape: tuple[int, ...], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return evenly spaced rows and columns whose crossings are at most about `most`."""
    step = _step(shape, most)
    return np.arange(step // 2, shape[0], step), np.arange(step // 2, shape[1], step)


def thinned(depth_m: Float32[np.ndarray, "h w"], most: int) -> Float32[np.ndarray, "rows cols"]:
    """Return what is read at the crossings of `grid_of`."""
    step = _step(depth_m.shape, most)
    return depth_m[step // 2 :: step, step // 2 :: step]


def _step(shape: tuple[int, ...], most: int) -> int:
    return max(1, int(np.ceil(np.sqrt(shape[0] * shape[1] / most))))
