"""A neighbour drawn as a view should see it: by hand, on flat walls."""

import numpy as np

from vega3d.pipeline.scenes.warping import ColoredDepth, difference, warp

K = np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]])
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def wall(rgb: np.ndarray, *, right_m: float = 0.0, depth_m: float = 2.0) -> ColoredDepth:
    pose = np.eye(4)
    pose[0, 3] = right_m
    return ColoredDepth(
        rgb=rgb,
        depth_m=np.full((24, 32), depth_m, dtype=np.float32),
        K_color=K,
        K_depth=np.diag([0.5, 0.5, 1]) @ K,
        world_from_camera=pose,
    )


def test_a_view_is_its_own_neighbour() -> None:
    shown, warped = warp(wall(NOISE), wall(NOISE), 48, 64)
    np.testing.assert_array_equal(shown, NOISE)
    np.testing.assert_array_equal(warped.rgb, NOISE)
    assert warped.is_known.all()
    assert not difference(shown, warped).any()


def test_a_step_to_the_right_shifts_by_focal_times_baseline_over_depth() -> None:
    """0.5 m at 2 m and 40 px: ten columns; the ten that the neighbour cannot see are grey."""
    shown, warped = warp(wall(NOISE), wall(np.roll(NOISE, -10, axis=1), right_m=0.5), 48, 64)
    assert not warped.is_known[:, :10].any()
    np.testing.assert_array_equal(warped.rgb[:, 10:], NOISE[:, 10:])
    told = difference(shown, warped)
    assert not told[:, 10:].any()
    assert (told[:, :10] == 110).all()


def test_what_the_neighbour_cannot_see_is_not_drawn() -> None:
    """It stands before a nearer wall: all that the view sees is hidden from it."""
    _, warped = warp(wall(NOISE), wall(NOISE, depth_m=1.0), 48, 64)
    assert not warped.is_known.any()
    assert not warped.rgb.any()
    _, behind = warp(wall(NOISE, depth_m=1.0), wall(NOISE), 48, 64)
    assert behind.is_known.all()


def test_a_picture_of_another_size_looks_at_the_same_places() -> None:
    shown, warped = warp(wall(NOISE), wall(NOISE), 24, 32)
    np.testing.assert_array_equal(shown, NOISE[1::2, 1::2])
    np.testing.assert_array_equal(warped.rgb, shown)
