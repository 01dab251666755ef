"""Which reader a location is for: the only place that knows all of them."""

import os
from pathlib import Path

from vega3d.pipeline.scenes.scene import SceneSource

LAYOUTS = """layouts known:
  ScanNet export   <scene>/color/0.jpg depth/0.png pose/0.txt intrinsic/intrinsic_color.txt
  posed_images     <scene>/00000.jpg 00000.png 00000.txt intrinsic.txt depth_intrinsic.txt
  7-Scenes         seq-01/frame-000000.color.png .depth.png .pose.txt
  video            a file (.mp4 .mov .mkv .webm .avi .m4v) or a folder of them
  WebDataset       .tar, a folder, glob or {000..009} of them, their index.json, http:// s3:// too
  rooms            rooms:8 or rooms:8?views=16&height=240&width=320&seed=0"""


def read_scenes(location: str) -> SceneSource:
    """Return the source at a location, whatever its layout (LAYOUTS lists them).

    Raises:
        ValueError: Nothing there, or nothing that is known; the message lists the layouts.
    """
    # Readers load on first use: av and numba are slow to import.
    from vega3d.pipeline.scenes.tars import looks_like_tars, read_tars

    if location.startswith("rooms:"):
        from vega3d.pipeline.scenes.rooms.rooms import parse_rooms

        return parse_rooms(location)
    path = Path(location).expanduser()
    if not path.exists() and looks_like_tars(location):
        return read_tars(location)
    if path.is_dir():
        return _folder_source(path)
    if path.is_file():
        return _file_source(path)
    raise ValueError(f"{location}: there is no such file or folder; {LAYOUTS}")


def _file_source(path: Path) -> SceneSource:
    from vega3d.pipeline.scenes.tars import looks_like_tars, read_tars
    from vega3d.pipeline.scenes.videos import SUFFIXES, Videos

    if looks_like_tars(path.name):
        return read_tars(str(path))
    if path.suffix.lower() in SUFFIXES:
        return Videos(str(path))
    raise ValueError(f"{path}: is no file that holds scenes; {LAYOUTS}")


def _folder_source(path: Path) -> SceneSource:
    from vega3d.pipeline.scenes.rgbd_folders import RgbdFolders, holds_captures
    from vega3d.pipeline.scenes.tars import INDEX_NAME, read_tars
    from vega3d.pipeline.scenes.videos import Videos, holds_videos

    if holds_captures(str(path)):
        return RgbdFolders(str(path))
    if any(name.endswith((".tar", INDEX_NAME)) for name in os.listdir(path)):
        return read_tars(str(path))
    if holds_videos(str(path)):
        return Videos(str(path))
    raise ValueError(f"{path}: holds no scenes; {LAYOUTS}")
