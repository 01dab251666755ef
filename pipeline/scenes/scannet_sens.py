"""ScanNet's `.sens` files, read directly: a stream of JPEG, depth and pose, a view a frame.

Views have the names that ScanNet's export gives them (the frame's number). Poses are
camera-to-world, OpenCV axes, metres; depth is integers of 1/depth_shift metres.

Source: ScanNet, SensReader/c++/src/sensorData.h and python/SensorData.py, version 4.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from typing import Any

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.local_files import open_plain
from vega3d.pipeline.scenes.byte_ranges import read_range
from vega3d.pipeline.scenes.cameras import check_intrinsics, check_pose
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import Folder
from vega3d.pipeline.scenes.images import MAX_PIXELS
from vega3d.pipeline.scenes.inflating import InflateError, inflater
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.shapes import UInt16

_VERSION = 4
_COLOR = {-1: "unknown", 0: "raw", 1: "png", 2: "jpeg"}
_DEPTH = {-1: "unknown", 0: "raw_ushort", 1: "zlib_ushort", 2: "occi_ushort"}
_FIXED = struct.Struct("<64f2i4If")
"""Intrinsics and extrinsics of colour and depth, compressions, sizes, depth shift."""

_FRAME = struct.Struct("<16f4Q")
"""Pose, two time stamps, bytes of colour and of depth."""


class ScannetSens:
    """The reader of ScanNet's .sens files."""

    name = "ScanNet .sens"
    looks = "<scene>/<scene>.sens, or the file itself"

    def claims(self, folder: Folder) -> bool:
        """Say whether there is a .sens file."""
        return any(name.lower().endswith(".sens") for name in folder.files)

    def places(self, folder: Folder) -> Sequence[Place]:
        """List the files; their headers say how many frames they have."""
        names = [name for name in folder.files if name.lower().endswith(".sens")]
        return [_place(folder, name) for name in names]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read the cameras of every frame; their images are read when asked for."""
        with open_plain(place.path) as file:
            header = _header(file, scene_id)
            size_bytes = os.fstat(file.fileno()).st_size
            frames = list(_frames(file, header.num_frames, size_bytes))
        makers = [
            (str(i), partial(_view, place.path, header, frame, scene_id, i))
            for i, frame in enumerate(frames)
        ]
        return build_scene(scene_id, makers, header.notes)


@dataclass(frozen=True, slots=True)
class _Header:
    K_color: Any
    K_depth: Any
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    color: str
    depth: str
    unit_m: float
    num_frames: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Frame:
    pose: Any
    start: int
    color_bytes: int
    depth_bytes: int


def _place(folder: Folder, name: str) -> Place:
    path, stem = folder.join(name), name[: -len(".sens")]
    try:
        with open_plain(path) as file:
            count = _header(file, stem).num_frames
    except (SceneError, OSError):
        count = 0  # reading it says why
    # scans/scene0000_00/scene0000_00.sens is scene0000_00.
    is_own = not folder.alone and stem == os.path.basename(folder.path)
    return Place(path=path, num_views=count, name="" if is_own else stem, data=(path,))


def _header(file: BufferedReader, scene_id: str) -> _Header:
    version, name_bytes = struct.unpack("<IQ", _exactly(file, 12, scene_id))
    if version != _VERSION or name_bytes > 4096:
        raise SceneError(
            f"{scene_id}: is no .sens file of version {_VERSION} ({version}); fetch it again"
        )
    _exactly(file, name_bytes, scene_id)
    values = _FIXED.unpack(_exactly(file, _FIXED.size, scene_id))
    matrices = np.array(values[:64], dtype=np.float64).reshape(4, 4, 4)
    color, depth, width, height, depth_width, depth_height, shift = values[64:]
    (num_frames,) = struct.unpack("<Q", _exactly(file, 8, scene_id))
    K_color, K_depth = matrices[0, :3, :3].copy(), matrices[2, :3, :3].copy()
    check_intrinsics(K_color, f"{scene_id}: colour intrinsics")
    check_intrinsics(K_depth, f"{scene_id}: depth intrinsics")
    if not shift > 0 or max(width * height, depth_width * depth_height) > MAX_PIXELS:
        raise SceneError(f"{scene_id}: the header of its .sens file cannot be true")
    apart = float(np.abs(matrices[1] - matrices[3]).max())
    notes = (
        (f"colour and depth cameras lie apart (extrinsics differ by {apart:.3g}); taken as one",)
        if apart > 1e-3
        else ()
    )
    return _Header(
        K_color, K_depth, (height, width), (depth_height, depth_width),
        _COLOR.get(color, "unknown"), _DEPTH.get(depth, "unknown"), 1 / shift, num_frames, notes,
    )  # fmt: skip


def _frames(file: BufferedReader, count: int, size_bytes: int) -> Sequence[_Frame | None]:
    """Hop from frame to frame; None for each that the file no longer holds."""
    frames: list[_Frame | None] = []
    position = file.tell()
    # A damaged count must not make a list without end: no frame is smaller than its own header.
    count = min(count, size_bytes // _FRAME.size + 1)
    for _ in range(count):
        file.seek(position)
        data = file.read(_FRAME.size)
        if len(data) < _FRAME.size:
            break
        values = _FRAME.unpack(data)
        start = position + _FRAME.size
        frame = _Frame(np.array(values[:16]).reshape(4, 4), start, values[18], values[19])
        position = start + frame.color_bytes + frame.depth_bytes
        if position > size_bytes:
            break
        frames.append(frame)
    return frames + [None] * (count - len(frames))


def _view(
    path: str, header: _Header, frame: _Frame | None, scene_id: str, index: int
) -> EncodedView:
    where = f"{scene_id}/view {index}"
    if frame is None:
        raise SceneError(f"{where}: the .sens file ends before it; fetch it again")
    if header.color not in ("jpeg", "png"):
        raise SceneError(f"{where}: colour is stored as {header.color}; only jpeg and png are read")
    if header.depth not in ("raw_ushort", "zlib_ushort"):
        raise SceneError(f"{where}: depth is stored as {header.depth}; only zlib and raw are read")
    check_pose(frame.pose, where)
    depth_at = frame.start + frame.color_bytes
    return EncodedView(
        scene_id=scene_id,
        view_id=str(index),
        load_color=partial(read_range, path, frame.start, frame.color_bytes),
        load_depth=partial(_depth, path, depth_at, frame.depth_bytes, header, where),
        K_color=header.K_color,
        K_color_size=header.color_size,
        K_depth=header.K_depth,
        depth_size=header.depth_size,
        world_from_camera=frame.pose,
        unit_m=header.unit_m,
    )


def _depth(
    path: str, start: int, size_bytes: int, header: _Header, where: str
) -> UInt16[np.ndarray, "h w"]:
    data = read_range(path, start, size_bytes)
    rows, cols = header.depth_size
    if header.depth == "zlib_ushort":
        # One byte more than there must be: a bomb is not unpacked, and is too long.
        unpacker = inflater()
        try:
            data = unpacker.decompress(data, 2 * rows * cols + 1)
        except InflateError as error:
            raise SceneError(f"{where}: depth is damaged ({error}); fetch it again") from error
        if len(data) == 2 * rows * cols and not unpacker.eof:
            raise SceneError(f"{where}: depth is damaged (it is cut short); fetch it again")
    if len(data) != 2 * rows * cols:
        raise SceneError(f"{where}: depth has {len(data)} bytes, must have {2 * rows * cols}")
    return np.frombuffer(data, dtype="<u2").reshape(rows, cols).astype(np.uint16)


def _exactly(file: BufferedReader, size_bytes: int, scene_id: str) -> bytes:
    data = file.read(size_bytes)
    if len(data) != size_bytes:
        raise SceneError(f"{scene_id}: its .sens file is truncated at byte {file.tell()}")
    return data
