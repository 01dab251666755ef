"""ScanNet's export: `color/`, `depth/`, `pose/` and `intrinsic/`, a file a view.

Poses are camera-to-world, OpenCV axes, metres; depth is 16-bit PNG, millimetres.

Depth intrinsics where there is `intrinsic_per_frame/`: these captures hold depth that was
registered to colour by resizing (their `intrinsic_depth` is `intrinsic_color` times 256/640 to
six digits), so each view's K_depth is its own K_color at that scale: on corridor_lidar, depth of
neighbouring views then agrees to 13.8 mm instead of 15.1 mm with the median. Where the two files
are no plain scaling of each other, `intrinsic_depth` stays as it is.

The scene's own `<scene>.txt`, where it lies beside, says of which image size its `fx_color` is.

Source: ScanNet, SensReader/python/SensorData.py (export_*), github.com/ScanNet/ScanNet.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.depth_images import SUFFIXES as DEPTH_SUFFIXES
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import Folder, by_stem, list_folder, read_text
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.scenes.view_files import (
    COLOR_SUFFIXES,
    ViewFiles,
    read_intrinsics,
    unique_colors,
)
from vega3d.pipeline.shapes import Float64


class ScannetExport:
    """The reader of ScanNet's export."""

    name = "ScanNet export"
    looks = "<scene>/color/0.jpg depth/0.png pose/0.txt intrinsic/intrinsic_color.txt"

    def claims(self, folder: Folder) -> bool:
        """Say whether there is a folder `color`."""
        return "color" in folder.folders

    def places(self, folder: Folder) -> Sequence[Place]:
        """Return the one capture that the folder is."""
        colors = by_stem(folder.open_folder("color").files, COLOR_SUFFIXES)
        inner = ("color", "depth", "pose", "intrinsic", "intrinsic_per_frame")
        data = [folder.join(name) for name in inner if name in folder.folders]
        return [Place(path=folder.path, num_views=len(colors), data=(folder.path, *data))]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read poses and intrinsics."""
        folder = list_folder(place.path)
        color = folder.open_folder("color")
        names = by_stem(color.files, COLOR_SUFFIXES)
        unique_colors(names, color.files, scene_id)
        files = ViewFiles(
            scene_id=scene_id,
            color={stem: color.join(name) for stem, name in names.items()},
            depth=_paths(folder, "depth", DEPTH_SUFFIXES),
            pose=_paths(folder, "pose", (".txt",)),
            expected_depth=lambda stem: folder.join("depth", f"{stem}.png"),
            expected_pose=lambda stem: folder.join("pose", f"{stem}.txt"),
        )
        K_color = K_color_size = K_depth = None
        if names and (files.depth is not None or files.pose is not None):
            K_color = read_intrinsics(folder.join("intrinsic", "intrinsic_color.txt"), scene_id)
            K_color_size = _stated_size(folder, K_color)
        if names and files.depth is not None:
            K_depth = read_intrinsics(folder.join("intrinsic", "intrinsic_depth.txt"), scene_id)
        per_frame = "intrinsic_per_frame" in folder.folders

        def view(stem: str) -> EncodedView:
            found = replace(
                files.view(stem), K_color=K_color, K_color_size=K_color_size, K_depth=K_depth
            )
            return _own_intrinsics(found, folder) if per_frame else found

        return build_scene(
            scene_id,
            [(stem, partial(view, stem)) for stem in names],
            files.notes(folder, read=("depth",)),
        )


def _paths(folder: Folder, name: str, suffixes: tuple[str, ...]) -> dict[str, str] | None:
    if name not in folder.folders:
        return None
    inner = folder.open_folder(name)
    return {stem: inner.join(file) for stem, file in by_stem(inner.files, suffixes).items()}


def _stated_size(folder: Folder, K_color: Float64[np.ndarray, "3 3"]) -> tuple[int, int] | None:
    """Return the rows and columns that `<scene>.txt` gives for the same focal length as K's.

    Of images that were resized with their intrinsics it keeps the old size, and the old length.
    """
    name = f"{os.path.basename(os.path.realpath(folder.path))}.txt"
    if name not in folder.files:
        return None
    told = dict(re.findall(r"(?m)^\s*(\w+)\s*=\s*([-+.\deE]+)\s*$", read_text(folder.join(name))))
    try:
        fx, width, height = (float(told[key]) for key in ("fx_color", "colorWidth", "colorHeight"))
    except (KeyError, ValueError):
        return None
    return (int(height), int(width)) if abs(fx / K_color[0, 0] - 1) < 1e-3 else None


def _own_intrinsics(view: EncodedView, folder: Folder) -> EncodedView:
    K = read_intrinsics(folder.join("intrinsic_per_frame", f"{view.view_id}.txt"), view.where)
    if view.K_color is None or view.K_depth is None:
        return replace(view, K_color=K)
    scale = view.K_depth / np.where(view.K_color == 0, 1, view.K_color)
    is_resized = np.allclose([scale[0, 0], scale[1, 1]], [scale[0, 2], scale[1, 2]], rtol=1e-4)
    K_depth = np.diag([scale[0, 0], scale[1, 1], 1]) @ K if is_resized else view.K_depth
    return replace(view, K_color=K, K_depth=K_depth)
