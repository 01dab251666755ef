"""LIBERO's demonstrations in HDF5, as robosuite and robomimic write them: a demo is a scene.

`data/demo_0/obs/agentview_rgb` [T, H, W, 3] holds a camera's frames, `data/demo_0/actions` what was
done. No depth, no poses. Views are `<camera>/<frame>`, all frames of a camera in a row.

LIBERO stores images upside down: OpenGL's way, bottom row first, as the attribute
`macros_image_convention` of `data` says. They are turned over here, so that every reader sees them
upright. (OpenVLA turns them by 180 degrees, and so learns from mirror images.) Images named
`..._image` without that attribute are robomimic's, which stores them upright.

Needs h5py (extra `hdf5`). Links to other files, and values kept in them, are not followed.

Source: Lifelong-Robot-Learning/LIBERO @ 8f1084e, scripts/create_dataset.py; robomimic,
scripts/dataset_states_to_obs.py.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.local_files import check_plain
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.episodes import Group, camera_groups, view_id
from vega3d.pipeline.scenes.files import Folder
from vega3d.pipeline.scenes.fingerprints import of_files
from vega3d.pipeline.scenes.images import MAX_PIXELS
from vega3d.pipeline.scenes.scene import Scene, View, natural_key
from vega3d.pipeline.shapes import UInt8

SUFFIX = ".hdf5"
_MAX_FRAMES = 1_000_000
_MAX_CHUNK_BYTES = 1 << 28
_CAMERA_ENDINGS = ("_rgb", "_image")
_UPSIDE_DOWN = "images are stored bottom row first and were turned over"


class Libero:
    """The reader of LIBERO's demonstrations."""

    name = "LIBERO HDF5"
    looks = "a .hdf5 file with data/demo_0/obs/agentview_rgb, or a folder of them"

    def claims(self, folder: Folder) -> bool:
        """Say whether there is an HDF5 file."""
        return any(name.lower().endswith(SUFFIX) for name in folder.files)

    def places(self, folder: Folder) -> Sequence[Place]:
        """List the demos of every file; one that cannot be opened is one without views."""
        names = [name for name in folder.files if name.lower().endswith(SUFFIX)]
        return [place for name in names for place in _places(folder.join(name))]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Return the frames of a demo, read when asked for."""
        with opened(place.path) as file:
            if not place.part:
                demo_names(file, place.path)  # says what is wrong with the file
            demo = _demo(file, place.part, place.path)
        groups = {_name(place.path, demo, group): cameras for group, cameras in demo.groups}
        if place.name not in groups:
            raise SceneError(f"{place.path}: changed since it was listed")
        cameras = groups[place.name]
        views = tuple(
            View(
                view_id=view_id(camera, index),
                read_rgb=partial(_frame, place.path, demo, camera, index, scene_id),
            )
            for camera in cameras
            for index in range(demo.length)
        )
        notes = ("has no poses: its tokens get no positions", *demo.notes)
        return Scene(scene_id, views, notes=notes)


@dataclass(frozen=True, slots=True)
class _Demo:
    name: str
    length: int
    datasets: Mapping[str, str]
    """Path of each camera's frames within the file."""

    groups: tuple[Group, ...]
    upside_down: bool
    notes: tuple[str, ...]


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open a file of demonstrations for reading.

    Raises:
        SceneError: h5py is missing, or the file is no HDF5.
    """
    try:
        import h5py
    except ImportError as error:
        raise SceneError(f"{path}: HDF5 needs h5py; pip install 'vega3d[hdf5]'") from error
    check_plain(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        if isinstance(error, SceneError):
            raise
        raise SceneError(f"{path}: cannot be read as HDF5 ({error})") from error


def demo_names(file: Any, path: str) -> list[str]:  # noqa: ANN401 - h5py's, without types
    """Return the demos of an open file, in natural order."""
    return sorted(_group(file, "data", path), key=natural_key)


def values(file: Any, name: str, path: str) -> Any:  # noqa: ANN401 - h5py's, without types
    """Return a data set of an open file, and none that leads out of it.

    Raises:
        SceneError: There is none, its values lie in other files, or it unpacks to too much at once.
    """
    import h5py

    found = _inside(file, name, path)
    if not isinstance(found, h5py.Dataset):
        raise SceneError(f"{path}: {name} must be a data set")
    if found.is_virtual or found.external:
        raise SceneError(f"{path}: {name} keeps its values in other files, which are not opened")
    at_once = found.dtype.itemsize * prod(found.chunks or (1,))
    if at_once > _MAX_CHUNK_BYTES:
        raise SceneError(
            f"{path}: {name} is packed in parts of {at_once} bytes, over the limit of "
            f"{_MAX_CHUNK_BYTES}"
        )
    return found


def numbers(file: Any, name: str, path: str) -> np.ndarray | None:  # noqa: ANN401 - h5py's
    """Return the numbers of a data set [T, N], None where the file has none of that name.

    Raises:
        SceneError: As `values`, or they are too many.
    """
    outer, _, inner = name.rpartition("/")
    if inner not in _group(file, outer, path):
        return None
    found = values(file, name, path)
    if found.shape is None or found.dtype.kind not in "fiub":
        raise SceneError(f"{path}: {name} must hold numbers, got {found.dtype}")
    if prod(found.shape) * found.dtype.itemsize > _MAX_CHUNK_BYTES:
        raise SceneError(
            f"{path}: {name} holds {found.shape} {found.dtype}, over {_MAX_CHUNK_BYTES} bytes"
        )
    return np.asarray(found[()])


def instruction(file: Any) -> str:  # noqa: ANN401 - h5py's, without types
    """Return what the demos of an open file do, in words; empty where it does not say."""
    told = file["data"].attrs.get("problem_info", "{}")
    try:
        text = json.loads(told).get("language_instruction", "")
    except (TypeError, ValueError, AttributeError, RecursionError):
        return ""
    return ("".join(map(str, text)) if isinstance(text, list) else str(text)).strip().strip('"')


def _inside(file: Any, name: str, path: str) -> Any:  # noqa: ANN401 - h5py's, without types
    """Follow a path within the file, hard links only."""
    import h5py

    found = file
    for part in name.split("/"):
        if not isinstance(found, h5py.Group) or part not in found:
            raise SceneError(f"{path}: has no {name}; LIBERO's files have data/demo_0/obs/...")
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise SceneError(f"{path}: {name} is a link, which is not followed")
        found = found[part]
    return found


def _group(file: Any, name: str, path: str) -> list[str]:  # noqa: ANN401 - h5py's
    import h5py

    found = _inside(file, name, path)
    if not isinstance(found, h5py.Group) or len(found) > _MAX_FRAMES:
        raise SceneError(f"{path}: {name} must be a group")
    return list(found)


def _places(path: str) -> tuple[Place, ...]:
    """List a file's demos; what cannot be read is a place without views: reading it says why."""
    try:
        return _listed(path, of_files([path], path)["."])
    except (SceneError, OSError):
        return (Place(path=path, num_views=0, name=Path(path).stem, data=(path,)),)


@lru_cache(maxsize=512)  # every scene of a folder asks for all; failures are not kept
def _listed(path: str, _look: str) -> tuple[Place, ...]:
    with opened(path) as file:
        return tuple(
            place for name in demo_names(file, path) for place in _demo_places(file, name, path)
        )


def _demo_places(file: Any, name: str, path: str) -> list[Place]:  # noqa: ANN401 - h5py's
    try:
        demo = _demo(file, name, path)
    except SceneError:
        where = f"{Path(path).stem}/{name}"
        return [Place(path=path, num_views=0, name=where, part=name, data=(path,))]
    return [
        Place(
            path=path,
            num_views=demo.length * len(cameras),
            name=_name(path, demo, group),
            part=demo.name,
            data=(path,),
        )
        for group, cameras in demo.groups
    ]


def _name(path: str, demo: _Demo, group: tuple[str, ...]) -> str:
    return "/".join([Path(path).stem, demo.name, *group])


def _demo(file: Any, name: str, path: str) -> _Demo:  # noqa: ANN401 - h5py's, without types
    inside = f"data/{name}/obs"
    keys = _group(file, inside, path)
    shapes, datasets = {}, {}
    for key in keys:
        ending = next((end for end in _CAMERA_ENDINGS if key.endswith(end)), None)
        if ending is None:
            continue
        found = values(file, f"{inside}/{key}", path)
        if found.ndim != 4 or found.shape[3] != 3 or found.dtype != np.uint8:
            raise SceneError(
                f"{path}: {inside}/{key} must be uint8 [T, H, W, 3], got {found.shape}"
            )
        shapes[key.removesuffix(ending)] = found.shape
        datasets[key.removesuffix(ending)] = f"{inside}/{key}"
    lengths = {shape[0] for shape in shapes.values()}
    pixels = max((shape[1] * shape[2] for shape in shapes.values()), default=0)
    if len(lengths) != 1 or not 0 < max(lengths) <= _MAX_FRAMES or not 0 < pixels <= MAX_PIXELS:
        raise SceneError(
            f"{path}: {inside} must hold frames `..._rgb` of one length, up to {_MAX_FRAMES} of "
            f"{MAX_PIXELS} pixels, got {shapes}"
        )
    upside_down = _is_upside_down(file, keys)
    notes = [_UPSIDE_DOWN] if upside_down else []
    if depths := [key for key in keys if key.endswith("_depth")]:
        notes.append(f"depth is not read: {', '.join(depths)}")
    sizes = {camera: shape[1:] for camera, shape in shapes.items()}
    return _Demo(name, lengths.pop(), datasets, camera_groups(sizes), upside_down, tuple(notes))


def _is_upside_down(file: Any, keys: Sequence[str]) -> bool:  # noqa: ANN401 - h5py's
    usual = "opengl" if any(key.endswith("_rgb") for key in keys) else "opencv"
    said = file["data"].attrs.get("macros_image_convention", usual)
    return bool(said in ("opengl", b"opengl"))


def _frame(
    path: str, demo: _Demo, camera: str, index: int, scene_id: str
) -> UInt8[np.ndarray, "H W 3"]:
    with opened(path) as file:
        found = values(file, demo.datasets[camera], path)
        if index >= len(found):
            raise SceneError(f"{scene_id}: {path} changed: {camera} has no frame {index}")
        rgb = np.asarray(found[index])
    return np.ascontiguousarray(rgb[::-1] if demo.upside_down else rgb)
