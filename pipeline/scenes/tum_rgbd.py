"""TUM RGB-D sequences: `rgb.txt`, `depth.txt` and `groundtruth.txt`, matched by time stamps.

Colour and depth are registered; depth is 16-bit PNG of 1/5000 metre. Poses are of the colour
camera, camera-to-world, OpenCV axes, `time tx ty tz qx qy qz qw`. A colour image goes with the
depth image and the pose nearest in time, within 0.02 s; without one it is left out, as in TUM's own
associate.py. Intrinsics stand in no file: `freiburg1` to `freiburg3` in the sequence's name give
the published ones (lens included); else `calibration.txt` (ETH3D's `fx fy cx cy`) or
`intrinsic.txt`.

Source: TUM, RGB-D SLAM Dataset, file formats and intrinsic camera calibration
(cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats).
"""

import os
import re
from collections.abc import Sequence
from functools import partial

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import check_intrinsics, parse_numbers, pinhole
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import (
    MAX_TABLE_BYTES,
    Folder,
    list_folder,
    read_file,
    read_text,
)
from vega3d.pipeline.scenes.lenses import Lens, lens
from vega3d.pipeline.scenes.poses import pose_from_quaternion
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.scenes.timestamps import nearest, pairs
from vega3d.pipeline.scenes.view_files import COLOR_SUFFIXES
from vega3d.pipeline.shapes import Float64

TOLERANCE_S = 0.02
_UNIT_M = 1 / 5000
_SIZE = (480, 640)
_PUBLISHED = {
    1: (517.3, 516.5, 318.6, 255.3, (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    2: (520.9, 521.0, 325.1, 249.7, (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    3: (535.4, 539.2, 320.1, 247.6, ()),
}
"""fx fy cx cy and k1 k2 p1 p2 k3 of the three cameras; the third's images are undistorted."""


class TumRgbd:
    """The reader of TUM RGB-D sequences."""

    name = "TUM RGB-D"
    looks = "<sequence>/rgb.txt rgb/ depth.txt depth/ groundtruth.txt"

    def claims(self, folder: Folder) -> bool:
        """Say whether there is a list of colour images."""
        return "rgb.txt" in folder.files and "rgb" in folder.folders

    def places(self, folder: Folder) -> Sequence[Place]:
        """Return the one sequence that the folder is; its views are at most the images there."""
        images = folder.open_folder("rgb").files
        count = sum(name.lower().endswith(COLOR_SUFFIXES) for name in images)
        data = [folder.join(name) for name in ("rgb", "depth") if name in folder.folders]
        return [Place(path=folder.path, num_views=count, data=(folder.path, *data))]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read the lists, and match them."""
        folder = list_folder(place.path)
        times, colors = _images(folder, "rgb.txt", scene_id)
        depths = _depths(folder, times, scene_id)
        poses = _poses(folder, times, scene_id)
        notes = [*_missing("depth", depths), *_missing("pose", poses)]
        K, bent, size = _intrinsics(folder, scene_id)

        def view(index: int) -> EncodedView:
            view_id = _stem(colors[index])
            return EncodedView(
                scene_id=scene_id,
                view_id=view_id,
                load_color=partial(read_file, folder.join(colors[index])),
                load_depth=partial(read_file, folder.join(depths[index])) if depths else None,
                K_color=K,
                K_color_size=size,
                lens=bent,
                world_from_camera=_pose(poses[index], f"{scene_id}/view {view_id}")
                if poses
                else None,
                unit_m=_UNIT_M,
            )

        kept = [
            index
            for index in range(len(times))
            if (not depths or index in depths) and (not poses or index in poses)
        ]
        if not kept and notes:
            raise SceneError(f"{scene_id}: no view is left: {'; '.join(notes)}")
        if left_out := len(times) - len(kept):
            notes.append(f"{left_out} of {len(times)} colour images left out")
        return build_scene(scene_id, [(_stem(colors[i]), partial(view, i)) for i in kept], notes)


def _depths(folder: Folder, times: list[float], scene_id: str) -> dict[int, str] | None:
    """Return the depth image of each colour image that has one; None without a list of them."""
    if "depth.txt" not in folder.files:
        return None
    depth_times, paths = _images(folder, "depth.txt", scene_id)
    found = pairs(times, depth_times, TOLERANCE_S)
    return {index: paths[at] for index, at in enumerate(found) if at >= 0}


def _poses(folder: Folder, times: list[float], scene_id: str) -> dict[int, list[float]] | None:
    """Return the trajectory's line of each colour image that has one; None without a file."""
    if "groundtruth.txt" not in folder.files:
        return None
    where = f"{scene_id}: groundtruth.txt"
    rows: list[list[float]] = sorted(
        parse_numbers(line, (8,), "8", where).tolist() for line in _lines(folder, "groundtruth.txt")
    )
    found = nearest(times, [row[0] for row in rows], TOLERANCE_S)
    return {index: rows[at] for index, at in enumerate(found) if at >= 0}


def _missing(what: str, found: dict[int, str] | dict[int, list[float]] | None) -> list[str]:
    if found is None:
        return [f"has no list of {what}s: its tokens get no positions"]
    if not found:
        return [f"no colour image has a {what} within {TOLERANCE_S * 1e3:g} ms"]
    return []


def _pose(row: list[float], where: str) -> Float64[np.ndarray, "4 4"]:
    return pose_from_quaternion(row[4:8], row[1:4], where)


def _images(folder: Folder, name: str, scene_id: str) -> tuple[list[float], list[str]]:
    """Return time stamps and paths of a list, by time."""
    rows = []
    for line in _lines(folder, name):
        words = line.split(maxsplit=1)
        path = words[-1].strip()
        if len(words) != 2 or path.startswith("/") or ".." in path.split("/"):
            raise SceneError(f"{scene_id}: {name} has the line {line!r}, must be: time path")
        (time_s,) = parse_numbers(words[0], (1,), "one", f"{scene_id}: {name}")
        rows.append((float(time_s), path))
    rows.sort()
    return [row[0] for row in rows], [row[1] for row in rows]


def _lines(folder: Folder, name: str) -> list[str]:
    text = read_text(folder.join(name), MAX_TABLE_BYTES)
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _stem(path: str) -> str:
    return os.path.splitext(path.rpartition("/")[2])[0]


def _intrinsics(
    folder: Folder, scene_id: str
) -> tuple[Float64[np.ndarray, "3 3"], Lens | None, tuple[int, int] | None]:
    for name in ("calibration.txt", "intrinsic.txt", "intrinsics.txt"):
        if name in folder.files:
            where = f"{scene_id}: {name}"
            values = parse_numbers(read_text(folder.join(name)), (4, 9, 16), "fx fy cx cy", where)
            side = {9: 3, 16: 4}.get(values.size)
            K = values.reshape(side, side)[:3, :3] if side else pinhole(*values.tolist())
            check_intrinsics(K, where)
            return K, None, None
    found = re.search(r"(?:freiburg|fr)([123])(?![0-9])", os.path.abspath(folder.path).lower())
    if found is None:
        raise SceneError(
            f"{scene_id}: TUM sequences name their camera (freiburg1, ...), and this does not; "
            f"write `fx fy cx cy` into {folder.join('calibration.txt')}"
        )
    fx, fy, cx, cy, bent = _PUBLISHED[int(found[1])]
    return pinhole(fx, fy, cx, cy), lens("opencv", bent), _SIZE
