"""Record3D's `.r3d` files: a zip of `metadata` (JSON) and `rgbd/<i>.jpg`, `.depth`, `.conf`.

Depth is float32 metres, compressed with Apple's LZFSE (optional package lzfse, extra `record3d`).
Poses are `qx qy qz qw tx ty tz`, camera-to-world, of an OpenGL camera; intrinsics are column-major
or, where the app wrote them, a frame's own `fx fy cx cy`, px of the colour image.

Source: Record3D's export as nerfstudio (nerfstudio/process_data/record3d_utils.py) and USA-Net
(codekansas/usa, tasks/datasets/r3d.py) read it.
"""

import json
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.local_files import MAX_FILE_BYTES, check_plain
from vega3d.pipeline.scenes.cameras import check_intrinsics, check_pose, pinhole
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import Folder
from vega3d.pipeline.scenes.lzfse_blocks import sizes_bytes
from vega3d.pipeline.scenes.poses import opencv_from_opengl_pose, pose_from_quaternion
from vega3d.pipeline.scenes.scene import Scene, natural_key
from vega3d.pipeline.shapes import Float32, Float64

_BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError)


class Record3D:
    """The reader of Record3D's .r3d files."""

    name = "Record3D"
    looks = "a .r3d file, or a folder of them"

    def claims(self, folder: Folder) -> bool:
        """Say whether there is a .r3d file."""
        return any(name.lower().endswith(".r3d") for name in folder.files)

    def places(self, folder: Folder) -> Sequence[Place]:
        """List the files; their tables of contents say how many frames they have."""
        names = [name for name in folder.files if name.lower().endswith(".r3d")]
        return [
            Place(
                path=folder.join(name),
                num_views=_count(folder.join(name)),
                name=name[: -len(".r3d")],
                data=(folder.join(name),),
            )
            for name in names
        ]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read metadata; images are read when asked for."""
        archive = _open(place.path, scene_id)
        metadata = _metadata(archive, scene_id)
        names = set(archive.namelist())
        numbers = sorted((name[5:-4] for name in names if _is_color(name)), key=natural_key)

        def view(number: str) -> EncodedView:
            where = f"{scene_id}/view {number}"
            if f"rgbd/{number}.depth" not in names:
                raise SceneError(f"{where}: rgbd/{number}.depth must be in the file")
            K, pose = _cameras(metadata, number, where)
            return EncodedView(
                scene_id=scene_id,
                view_id=number,
                load_color=partial(_member, archive, f"rgbd/{number}.jpg", where),
                load_depth=partial(_depth, archive, number, metadata, where),
                K_color=K,
                K_color_size=(metadata["h"], metadata["w"]),
                depth_size=(metadata["dh"], metadata["dw"]),
                world_from_camera=pose,
                unit_m=1.0,
            )

        return build_scene(scene_id, [(number, partial(view, number)) for number in numbers])


def _is_color(name: str) -> bool:
    return name.startswith("rgbd/") and name.endswith(".jpg")


def _count(path: str) -> int:
    try:
        with _open(path, path) as archive:
            return sum(map(_is_color, archive.namelist()))
    except (SceneError, OSError):
        return 0  # reading it says why


def _open(path: str, scene_id: str) -> zipfile.ZipFile:
    check_plain(path)
    try:
        return zipfile.ZipFile(path)
    except _BAD_ZIP as error:
        raise SceneError(f"{scene_id}: is no readable .r3d file ({error}); export it again") from (
            error
        )


def _member(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    """Return a member's bytes; zipfile compares its CRC."""
    try:
        if archive.getinfo(name).file_size > MAX_FILE_BYTES:
            raise SceneError(f"{where}: {name} is over the limit of {MAX_FILE_BYTES} bytes")
        return archive.read(name)
    except _BAD_ZIP as error:
        raise SceneError(f"{where}: {name} is damaged ({error}); export it again") from error


def _metadata(archive: zipfile.ZipFile, scene_id: str) -> dict[str, Any]:
    try:
        found = json.loads(_member(archive, "metadata", scene_id))
        sizes = {name: int(found[name]) for name in ("w", "h", "dw", "dh")}
        return {
            **sizes,
            "K": np.array(found["K"], dtype=np.float64).reshape(3, 3).T,
            "poses": found["poses"],
            "intrinsics": found.get("perFrameIntrinsicCoeffs") or [],
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, SceneError):
            raise
        raise SceneError(
            f"{scene_id}: its metadata cannot be understood ({type(error).__name__}: {error})"
        ) from error


def _cameras(
    metadata: dict[str, Any], number: str, where: str
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "4 4"]]:
    try:
        index = int(number)
        pose = metadata["poses"][index]
        own = metadata["intrinsics"][index] if index < len(metadata["intrinsics"]) else None
        K = metadata["K"] if own is None else pinhole(*(float(value) for value in own[:4]))
        gl = pose_from_quaternion(pose[:4], pose[4:7], where)
    except (ValueError, IndexError, TypeError) as error:
        if isinstance(error, SceneError):
            raise
        raise SceneError(f"{where}: metadata has no camera for it ({error})") from error
    check_intrinsics(K, where)
    world_from_camera = opencv_from_opengl_pose(gl)
    check_pose(world_from_camera, where)
    return K, world_from_camera


def _depth(
    archive: zipfile.ZipFile, number: str, metadata: dict[str, Any], where: str
) -> Float32[np.ndarray, "h w"]:
    data = _member(archive, f"rgbd/{number}.depth", where)
    rows, cols = metadata["dh"], metadata["dw"]
    if len(data) != 4 * rows * cols:
        data = _decompressed(data, 4 * rows * cols, where)
    if len(data) != 4 * rows * cols:
        raise SceneError(f"{where}: depth has {len(data)} bytes, must have {4 * rows * cols}")
    return np.frombuffer(data, dtype="<f4").reshape(rows, cols).astype(np.float32)


def _decompressed(data: bytes, size_bytes: int, where: str) -> bytes:
    try:
        import lzfse
    except ImportError as error:
        raise SceneError(
            f"{where}: depth is compressed with LZFSE; pip install 'vega3d[record3d]'"
        ) from error
    try:
        stated, most = sizes_bytes(data)
        if stated == size_bytes and most <= MAX_FILE_BYTES:
            return bytes(lzfse.decompress(data))
    except (lzfse.error, MemoryError, ValueError) as error:
        raise SceneError(f"{where}: depth is damaged; export it again") from error
    raise SceneError(f"{where}: depth has {stated} bytes, must have {size_bytes}")
