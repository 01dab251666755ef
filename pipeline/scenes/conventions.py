"""How a source's poses and depth are to be understood, where it is not as readers assume.

Readers take poses as world-from-camera with OpenCV axes (x right, y down, z forward) and depth in
the unit of its layout. A source that means something else is read as it is, and put right here: the
only place where `--poses` and `--depth-scale` are applied.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float, Float32, Float64

from vega3d.pipeline.scenes.scene import Scene, View
from vega3d.pipeline.scenes.settings import Poses

_OPENGL_FROM_OPENCV = np.diag([1.0, -1, -1, 1])


def world_from_opencv(matrix: Float[np.ndarray, "4 4"], poses: Poses) -> Float64[np.ndarray, "4 4"]:
    """Return the world-from-camera pose with OpenCV axes that a source's matrix stands for.

    Args:
        matrix: As the source gives it; one that is not finite, or has no rotation, stays so.
        poses: `opencv` and `opengl` (x right, y up, z backward) are world-from-camera; `inverse`
            and `opengl-inverse` are camera-from-world with these axes.
    """
    pose: Float64[np.ndarray, "4 4"] = np.asarray(matrix, dtype=np.float64)
    if not np.isfinite(pose).all() or not pose[:3, :3].any():
        return pose
    if poses.endswith("inverse"):
        pose = np.asarray(np.linalg.inv(pose), dtype=np.float64)
    return pose @ _OPENGL_FROM_OPENCV if poses.startswith("opengl") else pose


def composed(first: Poses, then: Poses) -> Poses:
    """Return the one convention that `then`, of poses already read as `first`, comes to.

    Up to a turn of the world's axes, which moves no view against another.
    """
    is_inverse = first.endswith("inverse") != then.endswith("inverse")
    is_opengl = then.startswith("opengl")
    if not then.endswith("inverse"):
        is_opengl = is_opengl != first.startswith("opengl")
    if is_inverse:
        return "opengl-inverse" if is_opengl else "inverse"
    return "opengl" if is_opengl else "opencv"


def as_meant(scene: Scene, *, poses: Poses = "opencv", depth_scale: float = 1.0) -> Scene:
    """Return a scene with its poses and depths put right.

    Args:
        scene: As its reader gives it.
        poses: What its poses are: see `world_from_opencv`.
        depth_scale: Factor that turns its depth into metres.
    """
    if poses == "opencv" and depth_scale == 1:
        return scene
    return replace(
        scene, views=tuple(_view_as_meant(view, poses, depth_scale) for view in scene.views)
    )


def _view_as_meant(view: View, poses: Poses, depth_scale: float) -> View:
    pose, read = view.world_from_camera, view.read_depth_m
    return replace(
        view,
        world_from_camera=None if pose is None else world_from_opencv(pose, poses),
        read_depth_m=read and partial(_scaled, read, depth_scale),
    )


def _scaled(
    read_depth_m: Callable[[], Float32[np.ndarray, "h w"]], scale: float
) -> Float32[np.ndarray, "h w"]:
    return (read_depth_m() * np.float32(scale)).astype(np.float32)
