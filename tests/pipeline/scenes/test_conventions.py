"""Poses and depth of another convention, put right."""

import pickle

import numpy as np
import pytest

from vega3d.pipeline.scenes.conventions import (
    as_meant,
    composed,
    world_from_opencv,
)
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.scene import Scene, View
from vega3d.pipeline.scenes.settings import POSES, Poses

AHEAD_IN_OPENCV = np.array([0.0, 0, 2, 1])
BELOW_IN_OPENCV = np.array([0.0, 1, 0, 1])


@pytest.mark.parametrize("poses", POSES)
def test_a_camera_that_looks_along_x_does_so_in_every_convention(poses: Poses) -> None:
    """It stands at (5, 6, 7), looks along world x, and world z is up."""
    right, down, forward = [0, -1, 0], [0, 0, -1], [1, 0, 0]
    pose = np.eye(4)
    pose[:3, :3] = np.array([right, down, forward]).T
    pose[:3, 3] = 5, 6, 7
    if "opengl" in poses:  # its y is up and its z backward
        pose[:3, 1:3] *= -1
    told = np.linalg.inv(pose) if "inverse" in poses else pose
    meant = world_from_opencv(told, poses)
    np.testing.assert_allclose(meant @ AHEAD_IN_OPENCV, [7, 6, 7, 1], atol=1e-12)
    np.testing.assert_allclose(meant @ BELOW_IN_OPENCV, [5, 6, 6, 1], atol=1e-12)


def test_a_lost_pose_stays_lost() -> None:
    for lost in (np.zeros((4, 4)), np.full((4, 4), -np.inf), np.full((4, 4), np.nan)):
        np.testing.assert_array_equal(world_from_opencv(lost, "opengl-inverse"), lost)


def test_depth_is_scaled_when_it_is_read_and_nothing_else_changes() -> None:
    scene = read_scenes("rooms:1?height=12&width=16&views=2").read("room0000")
    meant = pickle.loads(pickle.dumps(as_meant(scene, depth_scale=0.2)))
    for view, changed in zip(scene.views, meant.views, strict=True):
        depth_m = changed.read_depth_m()
        assert depth_m.dtype == np.float32
        np.testing.assert_array_equal(depth_m, view.read_depth_m() * np.float32(0.2))
        np.testing.assert_array_equal(changed.world_from_camera, view.world_from_camera)
        np.testing.assert_array_equal(changed.read_rgb(), view.read_rgb())
    assert as_meant(scene) is scene


def test_views_without_pose_or_depth_stay_without() -> None:
    plain = Scene("s", (View(view_id="0", read_rgb=lambda: np.zeros((2, 2, 3), np.uint8)),))
    (view,) = as_meant(plain, poses="opengl", depth_scale=2.0).views
    assert view.world_from_camera is None
    assert view.read_depth_m is None


@pytest.mark.parametrize("first", POSES)
@pytest.mark.parametrize("then", POSES)
def test_two_conventions_come_to_one_between_views(first: Poses, then: Poses) -> None:
    rng = np.random.default_rng(0)
    told = []
    for _ in range(2):
        pose = np.eye(4)
        pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        pose[:3, 3] = rng.normal(size=3)
        told.append(pose)
    a, b = (world_from_opencv(world_from_opencv(pose, first), then) for pose in told)
    c, d = (world_from_opencv(pose, composed(first, then)) for pose in told)
    np.testing.assert_allclose(np.linalg.inv(a) @ b, np.linalg.inv(c) @ d, atol=1e-12)
