"""Depth carried between views: by hand on flat walls, and against a plain loop over pixels."""

import numpy as np
import pytest

from vega3d.pipeline.scenes.reprojection import PosedDepth, agreement, meet

K = np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]])


def wall(depth_m: float, *, at: tuple[float, float, float] = (0, 0, 0)) -> PosedDepth:
    """Return a view along +z of a wall at that z-depth."""
    pose = np.eye(4)
    pose[:3, 3] = at
    return PosedDepth(np.full((48, 64), depth_m, dtype=np.float32), K, pose)


def test_views_of_one_wall_agree() -> None:
    found = agreement([(wall(3.0), wall(2.5, at=(0.3, -0.1, 0.5)))])
    assert found.error_m == pytest.approx(0, abs=1e-6)
    assert found.error_share == pytest.approx(0, abs=1e-6)
    assert found.met_share > 0.5


def test_the_distance_is_signed_and_along_the_axis() -> None:
    """Half a metre nearer, the wall is 2.5 m away: a reading of 2.4 m lies 0.1 m before it."""
    met = meet(wall(3.0), wall(2.4, at=(0, 0, 0.5)))
    np.testing.assert_allclose(met.gap_m, 0.1, atol=1e-6)
    np.testing.assert_allclose(met.depth_m, 2.4, atol=1e-6)
    assert agreement([(wall(3.0), wall(2.4, at=(0, 0, 0.5)))]).error_share == pytest.approx(
        0.1 / 2.4, abs=1e-6
    )


def test_a_point_lands_in_the_pixel_that_the_pinhole_says() -> None:
    """One metre to the right at 2 m and 40 px: 20 columns; those that leave meet nothing."""
    met = meet(wall(2.0), wall(2.0, at=(1, 0, 0)))
    assert met.num_carried == 48 * 64 / 2**2  # every second row and column
    assert len(met.gap_m) == 24 * 22  # columns 21 to 63 of 64 stay inside


def test_what_is_hidden_is_an_outlier() -> None:
    """A pillar before a third of the wall, seen by the second view alone."""
    second = wall(3.0)
    second.depth_m[:, 20:41] = 1.0
    met = meet(wall(3.0), second)
    assert (met.gap_m > 1.9).mean() == pytest.approx(1 / 3, abs=0.03)
    assert agreement([(wall(3.0), second)]).error_m == 0


def test_nothing_meets_behind_the_camera_or_without_a_reading() -> None:
    behind = wall(3.0, at=(0, 0, 5))
    blind = PosedDepth(np.zeros((48, 64), np.float32), K, np.eye(4))
    for other in (behind, blind):
        found = agreement([(wall(3.0), other)])
        assert np.isnan(found.error_m)
        assert np.isnan(found.error_share)
        assert found.met_share == 0
    assert meet(blind, wall(3.0)).num_carried == 0


def test_a_bad_pair_among_good_ones_does_not_move_the_median() -> None:
    good, bad = (wall(3.0), wall(3.0)), (wall(3.0), wall(1.0))
    assert agreement([good, bad, good]).error_m == 0


def test_the_same_as_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(0)
    views = []
    for size, scale in (((12, 16), 0.25), ((20, 14), 0.3)):
        depth_m = rng.uniform(1, 3, size).astype(np.float32)
        depth_m[rng.random(size) < 0.2] = 0
        pose = np.eye(4)
        angle = rng.uniform(-0.3, 0.3)
        pose[:3, :3] = [
            [np.cos(angle), 0, np.sin(angle)],
            [0, 1, 0],
            [-np.sin(angle), 0, np.cos(angle)],
        ]
        pose[:3, 3] = rng.uniform(-0.3, 0.3, 3)
        own = np.diag([40 * scale, 41 * scale, 1.0])
        own[:2, 2] = size[1] / 2 - 0.4, size[0] / 2 + 0.3
        views.append(PosedDepth(depth_m, own, pose))
    met = meet(*views)
    gaps, read = plain_twin(*views)
    assert len(gaps) > 30
    np.testing.assert_allclose(met.gap_m, gaps, atol=1e-9)
    np.testing.assert_allclose(met.depth_m, read)


def plain_twin(first: PosedDepth, second: PosedDepth) -> tuple[list[float], list[float]]:
    gaps, read = [], []
    for row in range(first.depth_m.shape[0]):
        for col in range(first.depth_m.shape[1]):
            z = float(first.depth_m[row, col])
            if z == 0:
                continue
            ray = np.linalg.inv(first.K) @ [col + 0.5, row + 0.5, 1]
            world = first.world_from_camera @ [*(ray * z), 1]
            there = np.linalg.inv(second.world_from_camera) @ world
            if there[2] <= 0:
                continue
            u, v, _ = second.K @ there[:3] / there[2]
            height, width = second.depth_m.shape
            if not (0 <= u < width and 0 <= v < height):
                continue
            reading = float(second.depth_m[int(v), int(u)])
            if reading > 0:
                gaps.append(there[2] - reading)
                read.append(reading)
    return gaps, read
