"""nerfstudio's `transforms.json`, as its tools and Polycam, Record3D and Luma exports write it.

Poses are camera-to-world of an OpenGL camera and become OpenCV's; a scale that was applied to them
is undone. Intrinsics stand for the scene or a frame. Depth is millimetres, whatever the file type,
unless the JSON says otherwise (`depth_unit_scale_factor`; instant-ngp's `integer_depth_scale`), and
covers the colour image at any size. Distorted images are undistorted; a camera that no pinhole with
OpenCV's lenses covers is refused.

Source: nerfstudio, docs/quickstart/data_conventions.md and
nerfstudio/data/dataparsers/nerfstudio_dataparser.py, data/utils/data_utils.py.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import check_intrinsics, check_pose, pinhole
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import MAX_TABLE_BYTES, Folder, list_folder, read_file, read_text
from vega3d.pipeline.scenes.images import image_size
from vega3d.pipeline.scenes.lenses import Lens, lens
from vega3d.pipeline.scenes.poses import opencv_from_opengl_pose
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.shapes import Float64

_NAME = "transforms.json"
_PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE", "")
_UNIT_M = 1e-3


class Nerfstudio:
    """The reader of transforms.json."""

    name = "nerfstudio"
    looks = "<scene>/transforms.json images/; depth where a frame has depth_file_path"

    def claims(self, folder: Folder) -> bool:
        """Say whether there is a transforms.json."""
        return _NAME in folder.files

    def places(self, folder: Folder) -> Sequence[Place]:
        """Return the one scene that the folder is; its JSON says how many frames it has."""
        try:
            count = len(read_transforms(folder.join(_NAME), "")["frames"])
        except (SceneError, OSError):
            count = 0  # reading it says why
        inner = tuple(folder.join(name) for name in folder.folders)
        return [Place(path=folder.path, num_views=count, data=(folder.path, *inner))]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read the cameras of every frame."""
        folder = list_folder(place.path)
        meta = read_transforms(folder.join(_NAME), scene_id)
        frames = meta["frames"]
        makers = [
            (view_id, partial(frame_view, scene_id, view_id, place.path, meta, frame))
            for view_id, frame in zip(view_ids(frames), frames, strict=True)
        ]
        has_depth = any(frame.get("depth_file_path") for frame in frames)
        notes = [] if has_depth else ["has no depth: its tokens get no positions"]
        if not has_depth:
            notes += [
                f"{name}/ looks like depth and no frame names it (depth_file_path); not read"
                for name in folder.folders
                if "depth" in name.lower()
            ]
        return build_scene(scene_id, makers, notes)


def read_transforms(path: str, scene_id: str) -> dict[str, Any]:
    """Return a transforms.json whose `frames` is a list of objects; raises SceneError, OSError."""
    try:
        meta: dict[str, Any] = json.loads(read_text(path, MAX_TABLE_BYTES))
        if not all(isinstance(frame, dict) for frame in meta["frames"]):
            raise TypeError("frames must be objects")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SceneError(
            f"{scene_id}: {path} cannot be understood ({type(error).__name__}: {error})"
        ) from error
    return meta


def view_ids(frames: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the frames' file names without endings, or their whole paths where those repeat."""
    paths = [str(frame.get("file_path", index)) for index, frame in enumerate(frames)]
    stems = [PurePosixPath(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else paths


def frame_view(
    scene_id: str,
    view_id: str,
    folder: str,
    meta: Mapping[str, Any],
    frame: Mapping[str, Any],
) -> EncodedView:
    """Return one frame as a view.

    Args:
        scene_id: The scene's.
        view_id: The view's.
        folder: What the frame's paths are relative to.
        meta: The whole transforms.json; a frame's own values win.
        frame: One of its frames.

    Raises:
        SceneError: Its files are missing or lie elsewhere, or its camera cannot be true or read.
    """
    where = f"{scene_id}/view {view_id}"
    values = {**meta, **frame}
    try:
        color = _below(folder, str(frame["file_path"]), where)
        load_color = partial(read_file, color)
        K, size = _intrinsics(values, load_color, where)
        bent = _lens(values, where)
        pose = _pose(frame["transform_matrix"], values, where)
        depth = frame.get("depth_file_path")
        unit_m = float(values.get("depth_unit_scale_factor", _UNIT_M))
        unit_m = float(values.get("integer_depth_scale", unit_m))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SceneError):
            raise
        raise SceneError(
            f"{where}: its frame cannot be understood ({type(error).__name__}: {error})"
        ) from error
    return EncodedView(
        scene_id=scene_id,
        view_id=view_id,
        load_color=load_color,
        load_depth=partial(read_file, _below(folder, str(depth), where)) if depth else None,
        K_color=K,
        K_color_size=size,
        lens=bent,
        world_from_camera=pose,
        unit_m=unit_m,
    )


def _below(folder: str, name: str, where: str) -> str:
    """Return the path of a file that a frame names; one without an ending is looked for."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if os.path.isabs(name) or ".." in parts or "\0" in name:
        raise SceneError(f"{where}: {name!r} must be a path below the folder of its JSON")
    path = os.path.join(folder, *parts)
    endings = ("", ".png", ".jpg", ".jpeg", ".JPG")
    found = next((path + ending for ending in endings if os.path.isfile(path + ending)), None)
    if found is None and not os.path.islink(path):
        raise SceneError(f"{where}: the file {path} must exist, as the JSON names it")
    return found or path


def _intrinsics(
    values: Mapping[str, Any], load_color: "partial[bytes]", where: str
) -> tuple[Float64[np.ndarray, "3 3"], tuple[int, int]]:
    if "w" in values and "h" in values:
        size = int(values["h"]), int(values["w"])
    else:
        size = image_size(load_color(), where, "colour")
    if "fl_x" in values:
        fx = float(values["fl_x"])
        fy = float(values.get("fl_y", fx))
    elif "camera_angle_x" in values:
        fx = 0.5 * size[1] / math.tan(0.5 * float(values["camera_angle_x"]))
        fy = fx
    else:
        raise SceneError(f"{where}: has no focal length (fl_x) and no camera_angle_x")
    cx, cy = float(values.get("cx", size[1] / 2)), float(values.get("cy", size[0] / 2))
    K = pinhole(fx, fy, cx, cy)
    check_intrinsics(K, where)
    return K, size


def _lens(values: Mapping[str, Any], where: str) -> Lens | None:
    model = str(values.get("camera_model", "")).upper()
    listed = values.get("distortion_params")
    names = ("k1", "k2", "k3", "k4", "p1", "p2")
    k1, k2, k3, k4, p1, p2 = (
        (float(value) for value in (*listed, *(0.0,) * 6)[:6])
        if listed
        else (float(values.get(name, 0.0)) for name in names)
    )
    if model == "OPENCV_FISHEYE" or values.get("is_fisheye"):
        return lens("fisheye", (k1, k2, k3, k4))
    if model not in _PINHOLES or k4:
        raise SceneError(
            f"{where}: camera model {model or 'perspective'} with k4 {k4:g} is not read; undistort "
            "the images first, as with `ns-process-data` or `colmap image_undistorter`"
        )
    return lens("opencv", (k1, k2, p1, p2, k3))


def _pose(
    matrix: Any,  # noqa: ANN401 - JSON
    values: Mapping[str, Any],
    where: str,
) -> Float64[np.ndarray, "4 4"]:
    rows = np.array(matrix, dtype=np.float64)
    if rows.shape not in ((3, 4), (4, 4)):
        raise SceneError(f"{where}: transform_matrix is {list(rows.shape)}, must be 4x4")
    gl = np.eye(4)
    gl[: len(rows)] = rows
    gl[:3, 3] /= float(values.get("applied_scale", 1.0))
    pose = opencv_from_opengl_pose(gl)
    check_pose(pose, where)
    return pose
