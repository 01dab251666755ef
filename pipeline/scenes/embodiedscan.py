"""EmbodiedScan's info files: which views a scene has, their cameras, and the axis alignment.

The location is the .pkl file; images lie below its folder or the one above. Poses are `cam2global`,
camera-to-world, OpenCV axes, metres, turned by `axis_align_matrix`. Depth is millimetres, and
quarter millimetres in matterport3d. A pickle can run code, so this one is read by an unpickler that
knows plain containers and numpy arrays and nothing else.

Source: EmbodiedScan, embodiedscan/datasets/embodiedscan_dataset.py (parse_data_info).
"""

import os
import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.local_files import open_plain
from vega3d.pipeline.scenes.cameras import check_intrinsics, check_pose
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import Folder, read_file
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.shapes import Float64

_CORES = ("numpy.core", "numpy._core")  # before numpy 2, and since
_MULTIARRAY = {f"{core}.multiarray" for core in _CORES}
_KNOWN = (
    {
        (module, name)
        for module in ("builtins", "__builtin__")  # the latter in older protocols
        for name in ("set", "frozenset")
    }
    | {(f"{core}.numeric", "_frombuffer") for core in _CORES}
    | {("numpy", "dtype"), ("collections", "OrderedDict")}
)
MAX_INFO_BYTES = 4 << 30
"""Largest info file; the published ones have 0.7 GB at most."""


class EmbodiedScan:
    """The reader of EmbodiedScan's info files."""

    name = "EmbodiedScan"
    looks = "embodiedscan_infos_train.pkl, images beside or above it"

    def claims(self, folder: Folder) -> bool:
        """Say whether the location is one pickle."""
        return folder.alone and folder.files[0].lower().endswith(".pkl")

    def places(self, folder: Folder) -> Sequence[Place]:
        """List the file's scenes.

        Raises:
            SceneError: It is no info file.
        """
        path = folder.join(folder.files[0])
        return [
            Place(
                path=path,
                num_views=len(scene["images"]),
                name=name,
                part=name,
                data=(path, *_folders(path, scene)),
            )
            for name, scene in _scenes(path).items()
        ]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Return the views that the file lists."""
        scene = _scenes(place.path)[place.part]
        root = _root(place.path, scene, scene_id)
        align = np.array(scene.get("axis_align_matrix", np.eye(4)), dtype=np.float64)
        makers = [
            (_view_id(image), partial(_view, scene_id, root, scene, image, align))
            for image in scene["images"]
        ]
        return build_scene(scene_id, makers)


class _PlainUnpickler(pickle.Unpickler):
    """Knows containers and arrays; whatever else a pickle names is refused before it is made.

    What would make much of few bytes (a range, bytes or an array of a stated size) is refused too.
    """

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as in the standard library
        if (module, name) == ("numpy", "ndarray"):
            return _NDARRAY
        if module in _MULTIARRAY and name in ("_reconstruct", "scalar"):
            return _empty_array if name == "_reconstruct" else _scalar
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no info file needs")
        return super().find_class(module, name)


_NDARRAY = "numpy.ndarray"
"""Stands for the class where a pickle names it, so that nothing but `_reconstruct` can use it."""


def _empty_array(kind: object, shape: object, _code: object) -> np.ndarray:
    """Return the empty array that a pickle fills in next."""
    if kind != _NDARRAY or shape != (0,):
        raise pickle.UnpicklingError("an array that is not empty before its bytes come")
    return np.ndarray((0,), "b")


def _scalar(dtype: np.dtype, data: bytes) -> Any:  # noqa: ANN401 - of any type
    return np.frombuffer(data, dtype, 1)[0]


def _encoded(text: str, encoding: str) -> bytes:
    """Return bytes as protocols before 3 write them; other codecs are not looked up."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in {encoding!r}")
    return text.encode("latin-1")


def _scenes(path: str) -> dict[str, Mapping[str, Any]]:
    found = os.stat(path)
    return _parsed(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=2)
def _parsed(path: str, _mtime_ns: int, size: int) -> dict[str, Mapping[str, Any]]:
    try:
        if size > MAX_INFO_BYTES:
            raise ValueError(f"over the limit of {MAX_INFO_BYTES} bytes")
        with open_plain(path) as file:
            listed = _PlainUnpickler(file).load()["data_list"]
        scenes = {str(scene["sample_idx"]): scene for scene in listed}
        if any(not isinstance(scene["images"], list) for scene in scenes.values()):
            raise TypeError("images must be a list")
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises anything at all
        raise SceneError(
            f"{path}: is no EmbodiedScan info file ({type(error).__name__}: {error})"
        ) from error
    return scenes


def _root(path: str, scene: Mapping[str, Any], scene_id: str) -> str:
    """Return the folder below which the first image lies."""
    folder = os.path.dirname(os.path.abspath(path))
    first = str(scene["images"][0]["img_path"]) if scene["images"] else ""
    roots = (folder, os.path.dirname(folder))
    for root in roots:
        if os.path.exists(os.path.join(root, first)):
            return root
    raise SceneError(f"{scene_id}: {first} lies neither below {roots[0]} nor below {roots[1]}")


def _folders(path: str, scene: Mapping[str, Any]) -> list[str]:
    """Return the folders that hold a scene's images and depths."""
    names = {
        os.path.dirname(str(image.get(key) or ""))
        for image in scene["images"]
        if isinstance(image, dict)
        for key in ("img_path", "depth_path")
    }
    folder = os.path.dirname(os.path.abspath(path))
    found = {os.path.join(root, name) for root in (folder, os.path.dirname(folder))
             for name in names if name and ".." not in PurePosixPath(name).parts}  # fmt: skip
    return sorted(name for name in found if os.path.isdir(name))


def _view_id(image: Any) -> str:  # noqa: ANN401 - from a pickle
    try:
        return PurePosixPath(str(image["img_path"])).stem
    except (KeyError, TypeError):
        return "unnamed"


def _view(
    scene_id: str,
    root: str,
    scene: Mapping[str, Any],
    image: Mapping[str, Any],
    align: Float64[np.ndarray, "4 4"],
) -> EncodedView:
    where = f"{scene_id}/view {_view_id(image)}"
    try:
        color = _below(root, str(image["img_path"]), where)
        depth = image.get("depth_path")
        K = _intrinsics(scene.get("cam2img", image.get("cam2img")))
        K_depth = _intrinsics(scene.get("depth_cam2img", K))
        pose = align @ np.array(image["cam2global"], dtype=np.float64).reshape(4, 4)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SceneError):
            raise
        raise SceneError(f"{where}: its entry cannot be understood ({error!r})") from error
    check_intrinsics(K, where)
    check_intrinsics(K_depth, where)
    check_pose(pose, where)
    return EncodedView(
        scene_id=scene_id,
        view_id=_view_id(image),
        load_color=partial(read_file, color),
        load_depth=partial(read_file, _below(root, str(depth), where)) if depth else None,
        K_color=K,
        K_depth=K_depth,
        world_from_camera=pose,
        unit_m=1 / 4000 if scene_id.startswith("matterport3d") else 1e-3,
    )


def _intrinsics(matrix: Any) -> Float64[np.ndarray, "3 3"]:  # noqa: ANN401 - from a pickle
    return np.array(matrix, dtype=np.float64)[:3, :3].copy()


def _below(root: str, name: str, where: str) -> str:
    parts = PurePosixPath(name).parts
    if os.path.isabs(name) or ".." in parts:
        raise SceneError(f"{where}: {name!r} is no path below {root}")
    return os.path.join(root, *parts)
