"""Scenes and views, and where they come from.

Cameras are OpenCV cameras (x right, y down, z forward); positions are in metres; depth is z-depth
along the optical axis and 0 means no reading. Readers convert units; nothing downstream does.
Pixel coordinates are continuous: the first pixel's centre is (0.5, 0.5).
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

LAYOUTS = """layouts known:
  ScanNet export   <scene>/color/0.jpg depth/0.png pose/0.txt intrinsic/intrinsic_color.txt
  posed_images     <scene>/00000.jpg 00000.png 00000.txt intrinsic.txt depth_intrinsic.txt
  7-Scenes         seq-01/frame-000000.color.png .depth.png .pose.txt
  video            a file (.mp4 .mov .mkv .webm .avi .m4v) or a folder of them
  WebDataset       .tar, a folder, glob or {000..009} of them, their index.json, http:// s3:// too
  rooms            rooms:8 or rooms:8?views=16&height=240&width=320&seed=0"""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One image of a scene; pixels are decoded when asked for, cameras are there from the start."""

    view_id: str
    """Unique within its scene."""

    read_rgb: Callable[[], UInt8[np.ndarray, "H W 3"]]
    """Decode the colour image; raises SceneError, naming the view, where it cannot."""

    read_depth_m: Callable[[], Float32[np.ndarray, "h w"]] | None = None
    """Decode the depth image, metres; None where the source has no depth."""

    K_color: Float[np.ndarray, "3 3"] | None = None
    """Intrinsics of the colour image, px."""

    K_depth: Float[np.ndarray, "3 3"] | None = None
    """Intrinsics of the depth image, px."""

    world_from_camera: Float[np.ndarray, "4 4"] | None = None
    """Pose; may be non-finite as ScanNet's are: the extractor drops such views and counts them."""

    read_color_bytes: Callable[[], bytes] | None = None
    """Return the JPEG or PNG that the source holds; None where it holds none."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One posed RGB-D capture, or one video."""

    scene_id: str
    views: tuple[View, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneEntry:
    """What planning knows of a scene without touching a pixel."""

    scene_id: str
    num_views: int
    size_bytes: int
    """Bytes the source holds for it, compressed."""

    group: str = ""
    """Scenes of one unit share it: the URL of their tar, or "" where scenes lie apart."""


@runtime_checkable
class SceneSource(Protocol):
    """A place that lists scenes and reads them; picklable, so that workers get their own."""

    def entries(self) -> Sequence[SceneEntry]:
        """List every scene in a fixed order, without decoding anything."""
        ...

    def read(self, scene_id: str) -> Scene:
        """Return one scene with lazy views; raises SceneError where it cannot."""
        ...


def read_scenes(location: str) -> SceneSource:
    """Return the source at a location, whatever its layout (LAYOUTS lists them).

    Raises:
        ValueError: Nothing there, or nothing that is known; the message lists the layouts.
    """
    # Readers load on first use: av and trimesh are slow to import.
    from vega3d.pipeline.tars import looks_like_tars, read_tars

    if location.startswith("rooms:"):
        from vega3d.pipeline.rooms import parse_rooms

        return parse_rooms(location)
    path = Path(location).expanduser()
    if not path.exists() and looks_like_tars(location):
        return read_tars(location)
    if path.is_dir():
        return _folder_source(path)
    if path.is_file():
        return _file_source(path)
    raise ValueError(f"{location}: there is no such file or folder; {LAYOUTS}")


def check_unique(places: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError where two of the (scene id, place) pairs share an id, naming both places."""
    seen: dict[str, str] = {}
    for scene_id, place in places:
        if scene_id in seen:
            raise ValueError(
                f"scene id {scene_id!r} occurs twice: {seen[scene_id]} and {place}; rename one"
            )
        if not scene_id.isprintable():
            raise ValueError(f"{place}: scene id {scene_id!r} is no printable Unicode; rename it")
        seen[scene_id] = place


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sorting key by which `9.jpg` comes before `10.jpg`."""
    # re.split alternates text and digits, so equal positions hold equal types.
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _file_source(path: Path) -> SceneSource:
    from vega3d.pipeline.tars import looks_like_tars, read_tars
    from vega3d.pipeline.videos import SUFFIXES, Videos

    if looks_like_tars(path.name):
        return read_tars(str(path))
    if path.suffix.lower() in SUFFIXES:
        return Videos(str(path))
    raise ValueError(f"{path}: is no file that holds scenes; {LAYOUTS}")


def _folder_source(path: Path) -> SceneSource:
    from vega3d.pipeline.rgbd_folders import RgbdFolders, holds_captures
    from vega3d.pipeline.tars import INDEX_NAME, read_tars
    from vega3d.pipeline.videos import Videos, holds_videos

    if holds_captures(str(path)):
        return RgbdFolders(str(path))
    if any(name.endswith((".tar", INDEX_NAME)) for name in os.listdir(path)):
        return read_tars(str(path))
    if holds_videos(str(path)):
        return Videos(str(path))
    raise ValueError(f"{path}: holds no scenes; {LAYOUTS}")
