"""Which reader a location is for: the only place that knows all of them.

A new layout of folders is one file beside this one and one line in FOLDER_LAYOUTS. An installed
package adds a reader with an entry point of the group `vega3d.scenes`: it claims every location
that starts with the entry's name and a colon (see `plugins.py`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vega3d.pipeline.places import absolute
from vega3d.pipeline.plugins import SCENES, installed
from vega3d.pipeline.scenes.arkitscenes import ArkitScenes
from vega3d.pipeline.scenes.captures import Captures, Layout, holds_captures
from vega3d.pipeline.scenes.colmap import Colmap
from vega3d.pipeline.scenes.embodiedscan import EmbodiedScan
from vega3d.pipeline.scenes.lerobot import LeRobot
from vega3d.pipeline.scenes.libero import Libero
from vega3d.pipeline.scenes.nerfstudio import Nerfstudio
from vega3d.pipeline.scenes.posed_images import PosedImages
from vega3d.pipeline.scenes.record3d import Record3D
from vega3d.pipeline.scenes.replica import Replica
from vega3d.pipeline.scenes.scannet_export import ScannetExport
from vega3d.pipeline.scenes.scannet_sens import ScannetSens
from vega3d.pipeline.scenes.scannetpp import ScannetppDslr, ScannetppIphone
from vega3d.pipeline.scenes.scene import SceneSource
from vega3d.pipeline.scenes.seven_scenes import SevenScenes
from vega3d.pipeline.scenes.tum_rgbd import TumRgbd

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

FOLDER_LAYOUTS: tuple[Layout, ...] = (
    ScannetExport(),
    SevenScenes(),
    TumRgbd(),
    Replica(),
    ArkitScenes(),
    ScannetppIphone(),
    ScannetppDslr(),
    Nerfstudio(),
    Colmap(),
    LeRobot(),
    Record3D(),
    ScannetSens(),
    EmbodiedScan(),
    PosedImages(),
    Libero(),
)
"""A folder belongs to the first one that claims it."""

_OTHERS = {
    "video": "a file (.mp4 .mov .mkv .webm .avi .m4v) or a folder of them",
    "WebDataset": ".tar, a folder, glob or {000..009} of them, their index.json, http:// s3:// too",
    "rooms": "rooms:8 or rooms:8?views=16&height=240&width=320&seed=0",
}

LAYOUTS = "\n".join(
    [
        "layouts known:",
        *(f"  {layout.name:<16} {layout.looks}" for layout in FOLDER_LAYOUTS),
        *(f"  {name:<16} {looks}" for name, looks in _OTHERS.items()),
    ]
)


def read_scenes(location: str) -> SceneSource:
    """Return the source at a location, whatever its layout (LAYOUTS lists them).

    Raises:
        ValueError: Nothing there, or nothing that is known; the message lists the layouts.
    """
    # Readers load on first use: av, numba and tarfile are slow to import.
    if "\0" in location:
        raise ValueError(f"{location!r}: a location has no NUL character")
    location = absolute_location(location)
    if location.startswith("rooms:"):
        from vega3d.pipeline.scenes.rooms.rooms import parse_rooms

        return parse_rooms(location)
    if (plugin := _plugin_source(location)) is not None:
        return plugin
    path = Path(location)
    if path.is_dir():
        return _folder_source(path)
    if path.is_file():
        return _file_source(path)
    from vega3d.pipeline.scenes.tars import looks_like_tars, read_tars

    if not path.exists() and looks_like_tars(location):
        return read_tars(location)
    raise ValueError(f"{location}: there is no such file or folder; {LAYOUTS}")


def absolute_location(location: str) -> str:
    """Return a location that means the same in every folder: workers stand in another one."""
    name, colon, _ = location.partition(":")
    if location.startswith("rooms:") or (colon and name in _plugins()):
        return location
    return absolute(location)


def _plugins() -> "Mapping[str, EntryPoint]":
    return installed(SCENES, ours=("rooms", "http", "https", "s3", "gs", "file"))


def _plugin_source(location: str) -> SceneSource | None:
    """Return the source of an installed package's reader, where one claims the location."""
    name, colon, _ = location.partition(":")
    point = _plugins().get(name) if colon else None
    if point is None:
        return None
    source = point.load()(location)
    if not isinstance(source, SceneSource):
        raise ValueError(f"{location}: {point.value} gave {source!r}, which is no SceneSource")
    return source


def _file_source(path: Path) -> SceneSource:
    if holds_captures(str(path), FOLDER_LAYOUTS):
        return Captures(str(path), FOLDER_LAYOUTS)
    from vega3d.pipeline.scenes.tars import looks_like_tars, read_tars
    from vega3d.pipeline.scenes.videos import SUFFIXES, Videos

    if looks_like_tars(path.name):
        return read_tars(str(path))
    if path.suffix.lower() in SUFFIXES:
        return Videos(str(path))
    raise ValueError(f"{path}: is no file that holds scenes; {LAYOUTS}")


def _folder_source(path: Path) -> SceneSource:
    try:
        if holds_captures(str(path), FOLDER_LAYOUTS):
            return Captures(str(path), FOLDER_LAYOUTS)
        names = os.listdir(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be listed ({error})") from error
    if not names:
        raise ValueError(f"{path}: is empty; if a command was to fill it, run that again first")
    from vega3d.pipeline.scenes.tars import INDEX_NAME, read_tars
    from vega3d.pipeline.scenes.videos import Videos, holds_videos

    if any(name.endswith((".tar", INDEX_NAME)) for name in names):
        return read_tars(str(path))
    if holds_videos(str(path)):
        return Videos(str(path))
    raise ValueError(f"{path}: holds no scenes; {LAYOUTS}")
