"""Poses as formats write them: quaternions, axis-angle, OpenGL axes; all become OpenCV poses."""

from collections.abc import Sequence

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.shapes import Float, Float64

OPENGL_FROM_OPENCV: Float64[np.ndarray, "4 4"] = np.diag([1.0, -1.0, -1.0, 1.0])
"""An OpenGL camera (x right, y up, z backward) from an OpenCV one; its own inverse."""


def pose_from_quaternion(
    xyzw: Sequence[float], translation: Sequence[float], where: str
) -> Float64[np.ndarray, "4 4"]:
    """Return the rigid transform of a quaternion (scalar last) and a translation.

    Raises:
        SceneError: The quaternion's norm is not near 1. One that is all zero, or not finite, gives
            a pose without rotation, which counts as lost.
    """
    q = np.array(xyzw, dtype=np.float64)
    pose = np.eye(4)
    pose[:3, 3] = translation
    norm = float(np.linalg.norm(q))
    if not np.isfinite(norm) or norm == 0:
        pose[:3, :3] = 0
        return pose
    if abs(norm - 1) > 1e-2:
        raise SceneError(f"{where}: the quaternion {q.tolist()} has norm {norm:.4g}, must be 1")
    x, y, z, w = q / norm
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return pose


def pose_from_axis_angle(
    axis_angle: Sequence[float], translation: Sequence[float]
) -> Float64[np.ndarray, "4 4"]:
    """Return the rigid transform of a rotation vector (radians) and a translation (Rodrigues)."""
    vector = np.array(axis_angle, dtype=np.float64)
    angle = float(np.linalg.norm(vector))
    pose = np.eye(4)
    pose[:3, 3] = translation
    if angle > 0:
        x, y, z = vector / angle
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        pose[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return pose


def inverse(pose: Float[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    """Return the inverse of a rigid transform; one without rotation stays without."""
    result = np.eye(4)
    result[:3, :3] = pose[:3, :3].T
    result[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return result


def opencv_from_opengl_pose(
    world_from_camera: Float[np.ndarray, "4 4"],
) -> Float64[np.ndarray, "4 4"]:
    """Return a camera-to-world matrix of an OpenGL camera as that of the same OpenCV camera."""
    return np.asarray(world_from_camera @ OPENGL_FROM_OPENCV)
