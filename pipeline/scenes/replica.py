"""Replica as NICE-SLAM renders it: `results/frame000000.jpg depth000000.png` and `traj.txt`.

A line of `traj.txt` is a 4x4 camera-to-world matrix, OpenCV axes, metres. `cam_params.json`, beside
the scene or one folder up, has the camera and the number that depth is divided by (6553.5).

Source: NICE-SLAM, src/utils/datasets.py (class Replica) and configs/Replica (cvg/nice-slam).
"""

import json
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import check_intrinsics, check_pose, parse_matrix, pinhole
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.depth_images import SUFFIXES as DEPTH_SUFFIXES
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import (
    MAX_TABLE_BYTES,
    Folder,
    by_stem,
    list_folder,
    read_file,
    read_text,
)
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.scenes.view_files import COLOR_SUFFIXES

_CAMERA = "cam_params.json"


class Replica:
    """The reader of Replica as NICE-SLAM renders it."""

    name = "Replica"
    looks = (
        "<scene>/results/frame000000.jpg depth000000.png traj.txt; cam_params.json there or above"
    )

    def claims(self, folder: Folder) -> bool:
        """Say whether there is a trajectory beside results."""
        return "traj.txt" in folder.files and "results" in folder.folders

    def places(self, folder: Folder) -> Sequence[Place]:
        """Return the one scene that the folder is."""
        count = len(_frames(folder.open_folder("results")))
        return [
            Place(
                path=folder.path,
                num_views=count,
                data=(folder.path, folder.join("results"), *_camera_above(folder)),
            )
        ]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read trajectory and camera."""
        folder = list_folder(place.path)
        results = folder.open_folder("results")
        camera = _camera(folder, scene_id)
        K = pinhole(*(float(camera[name]) for name in ("fx", "fy", "cx", "cy")))
        check_intrinsics(K, f"{scene_id}: {_CAMERA}")
        text = read_text(folder.join("traj.txt"), MAX_TABLE_BYTES)
        lines = [line for line in text.splitlines() if line.strip()]
        frames = _frames(results)
        depths = by_stem(results.files, DEPTH_SUFFIXES)

        def view(index: int, number: str) -> EncodedView:
            where = f"{scene_id}/view frame{number}"
            if index >= len(lines):
                raise SceneError(
                    f"{where}: traj.txt has {len(lines)} lines for {len(frames)} views"
                )
            pose = parse_matrix(lines[index], 4, 4, f"{where}: traj.txt line {index + 1}")
            check_pose(pose, where)
            depth = depths.get(f"depth{number}")
            if depth is None:
                raise SceneError(
                    f"{where}: the file {results.join(f'depth{number}.png')} must exist"
                )
            return EncodedView(
                scene_id=scene_id,
                view_id=f"frame{number}",
                load_color=partial(read_file, results.join(frames[number])),
                load_depth=partial(read_file, results.join(depth)),
                K_color=K,
                K_color_size=(int(camera["h"]), int(camera["w"])),
                world_from_camera=pose,
                unit_m=1 / float(camera["scale"]),
            )

        makers = [(f"frame{n}", partial(view, i, n)) for i, n in enumerate(frames)]
        return build_scene(scene_id, makers)


def _frames(results: Folder) -> dict[str, str]:
    """Return colour images by what follows `frame` in their names."""
    names = by_stem(results.files, COLOR_SUFFIXES)
    return {
        stem.removeprefix("frame"): name for stem, name in names.items() if stem.startswith("frame")
    }


def _camera_above(folder: Folder) -> tuple[str, ...]:
    """Return the camera file in the folder above, where it is the one that counts."""
    above = os.path.join(os.path.dirname(os.path.abspath(folder.path)), _CAMERA)
    return (above,) if _CAMERA not in folder.files and os.path.exists(above) else ()


def _camera(folder: Folder, scene_id: str) -> dict[str, Any]:
    above = os.path.join(os.path.dirname(os.path.abspath(folder.path)), _CAMERA)
    path = folder.join(_CAMERA) if _CAMERA in folder.files else above
    try:
        camera = json.loads(read_text(path))["camera"]
        values = {name: float(camera[name]) for name in ("w", "h", "fx", "fy", "cx", "cy", "scale")}
        if not values["scale"] > 0:
            raise ValueError(f"scale is {values['scale']}")
    except FileNotFoundError as error:
        raise SceneError(
            f"{scene_id}: {_CAMERA} must lie in the scene's folder or above it: it says what depth "
            "is divided by"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SceneError(
            f"{scene_id}: {path} cannot be understood ({type(error).__name__}: {error})"
        ) from error
    return values
