"""ARKitScenes, raw or 3dod: `lowres_wide/`, its depth and intrinsics, and `lowres_wide.traj`.

A line of the trajectory is `time rx ry rz tx ty tz`, world to camera, axis-angle, OpenCV axes,
metres; a frame takes the nearest one within 5 ms, and is left out without one (the trajectory may
have fewer lines than there are frames). Depth is millimetres at colour's size. Images are stored as
the sensor lies; which way is up comes from `metadata.csv` (`sky_direction`), in the folder or up to
three above it, or else from the poses (z of the world is up).

Source: apple/ARKitScenes, DATA.md, threedod/benchmark_scripts/utils/tenFpsDataLoader.py and
rectify_im.py, depth_upsampling/dataset.py.
"""

import csv
import os
from collections.abc import Sequence
from functools import partial

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import (
    check_intrinsics,
    check_pose,
    is_lost,
    parse_numbers,
    pinhole,
)
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import (
    MAX_TABLE_BYTES,
    Folder,
    by_stem,
    list_folder,
    read_file,
    read_text,
)
from vega3d.pipeline.scenes.poses import inverse, pose_from_axis_angle
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.scenes.timestamps import nearest
from vega3d.pipeline.shapes import Float64

TOLERANCE_S = 0.005
_CLOCK_S = 0.0015
"""A frame's intrinsics and depth may be stamped a millisecond beside it."""

_TURNS = {"up": 0, "left": 1, "down": 2, "right": 3}
"""Quarter turns clockwise that bring the sky up, by where it is in the stored image."""


class ArkitScenes:
    """The reader of ARKitScenes."""

    name = "ARKitScenes"
    looks = "<video>/lowres_wide/ lowres_depth/ lowres_wide_intrinsics/ lowres_wide.traj"

    def claims(self, folder: Folder) -> bool:
        """Say whether there are frames of the low-resolution wide camera."""
        return "lowres_wide" in folder.folders

    def places(self, folder: Folder) -> Sequence[Place]:
        """Return the one video that the folder is; its views are at most the frames there."""
        count = len(by_stem(folder.open_folder("lowres_wide").files, (".png",)))
        inner = ("lowres_wide", "lowres_depth", "lowres_wide_intrinsics")
        data = [folder.join(name) for name in inner if name in folder.folders]
        return [
            Place(path=folder.path, num_views=count, data=(folder.path, *data, *_tables(folder)))
        ]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read trajectory and intrinsics, and match them to the frames by time."""
        folder = list_folder(place.path)
        colors = _by_time(folder.open_folder("lowres_wide"), ".png")
        poses, notes = _poses(folder, list(colors), scene_id)
        depths = _matched(folder, "lowres_depth", ".png", list(colors))
        pincams = _matched(folder, "lowres_wide_intrinsics", ".pincam", list(colors))
        kept = {time: stem for time, stem in colors.items() if poses is None or time in poses}
        if len(kept) < len(colors):
            notes.append(
                f"{len(colors) - len(kept)} of {len(colors)} frames have no pose within "
                f"{TOLERANCE_S * 1e3:g} ms; left out"
            )
        if not kept:
            raise SceneError(f"{scene_id}: no frame is left: {'; '.join(notes)}")
        turns = _turns(folder, list((poses or {}).values()))

        def view(time: float, stem: str) -> EncodedView:
            where = f"{scene_id}/view {stem}"
            if depths is not None and time not in depths:
                raise SceneError(f"{where}: lowres_depth/ must hold an image of its time")
            if time not in (pincams or {}):
                raise SceneError(f"{where}: lowres_wide_intrinsics/ must hold a file of its time")
            K, size = _pincam((pincams or {})[time], where)
            pose = None if poses is None else poses[time]
            if pose is not None:
                check_pose(pose, where)
            return EncodedView(
                scene_id=scene_id,
                view_id=stem,
                load_color=partial(read_file, folder.join("lowres_wide", f"{stem}.png")),
                load_depth=None if depths is None else partial(read_file, depths[time]),
                K_color=K,
                K_color_size=size,
                world_from_camera=pose,
                turns=turns,
            )

        makers = [(stem, partial(view, time, stem)) for time, stem in kept.items()]
        return build_scene(scene_id, makers, notes)


def _by_time(folder: Folder, suffix: str) -> dict[float, str]:
    """Return file names without their ending by time stamp: <video>_<seconds>, ascending."""
    found: dict[float, str] = {}
    for stem in by_stem(folder.files, (suffix,)):
        try:
            found[float(stem.rpartition("_")[2])] = stem
        except ValueError:
            continue  # no frame
    return dict(sorted(found.items()))


def _matched(folder: Folder, name: str, suffix: str, times: list[float]) -> dict[float, str] | None:
    if name not in folder.folders:
        return None
    found = _by_time(folder.open_folder(name), suffix)
    paths = [folder.join(name, f"{stem}{suffix}") for stem in found.values()]
    matched = nearest(times, list(found), _CLOCK_S)
    return {time: paths[at] for time, at in zip(times, matched, strict=True) if at >= 0}


def _poses(
    folder: Folder, times: list[float], scene_id: str
) -> tuple[dict[float, Float64[np.ndarray, "4 4"]] | None, list[str]]:
    """Return camera-to-world by the frames' times; None without a trajectory."""
    if "lowres_wide.traj" not in folder.files:
        return None, ["has no lowres_wide.traj: its tokens get no positions"]
    text = read_text(folder.join("lowres_wide.traj"), MAX_TABLE_BYTES)
    where = f"{scene_id}: lowres_wide.traj"
    rows = sorted(
        parse_numbers(line, (7,), "7", where).tolist() for line in text.splitlines() if line.strip()
    )
    found = nearest(times, [row[0] for row in rows], TOLERANCE_S)
    return {
        time: inverse(pose_from_axis_angle(rows[at][1:4], rows[at][4:7]))
        for time, at in zip(times, found, strict=True)
        if at >= 0
    }, []


def _pincam(path: str, where: str) -> tuple[Float64[np.ndarray, "3 3"], tuple[int, int]]:
    values = parse_numbers(read_text(path), (6,), "width height fx fy cx cy", path)
    width, height, fx, fy, cx, cy = values.tolist()
    K = pinhole(fx, fy, cx, cy)
    check_intrinsics(K, where)
    return K, (int(height), int(width))


def _turns(folder: Folder, poses: list[Float64[np.ndarray, "4 4"]]) -> int:
    """Return the quarter turns that bring the sky up."""
    video = os.path.basename(os.path.abspath(folder.path)).removesuffix("_frames")
    for table in _tables(folder):
        for row in csv.DictReader(read_text(table, MAX_TABLE_BYTES).splitlines()):
            sky = (row.get("sky_direction") or "").strip().lower()
            if (row.get("video_id") or "").strip() == video and sky in _TURNS:
                return _TURNS[sky]
    seen = [pose[2, :2] for pose in poses if not is_lost(pose)]
    if not seen:
        return 0
    # How much the image's right and down point to the sky; the largest of four says where it is.
    right, down = np.mean(seen, axis=0)
    return int(np.argmax([-down, -right, down, right]))


def _tables(folder: Folder) -> list[str]:
    """Return the tables that may say where the sky is: in the folder, and up to three above it."""
    place, found = os.path.abspath(folder.path), []
    for _ in range(4):
        table = os.path.join(place, "metadata.csv")
        if os.path.isfile(table):
            found.append(table)
        place = os.path.dirname(place)
    return found
