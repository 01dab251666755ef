"""WebDataset tars of scenes: reading them where they lie, and packing any source into them.

`tar_members` says what they hold. `pack` writes an index beside its tars, from which planning
needs no tar and a worker fetches one byte range a scene; other tars get one scan of their headers.
A remote scene is fetched as a whole when it is read: pack sampled views rather than raw video.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.byte_ranges import (
    is_remote,
    list_names,
    open_file,
    read_all,
    read_range,
)
from vega3d.pipeline.scenes.cameras import check_intrinsics, check_pose
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.fingerprints import Fingerprint, of_files, of_object
from vega3d.pipeline.scenes.packing import pack
from vega3d.pipeline.scenes.scene import (
    Scene,
    SceneEntry,
    check_unique,
    natural_key,
)
from vega3d.pipeline.scenes.tar_members import (
    INDEX_FORMAT,
    INDEX_NAME,
    MATRICES,
    Member,
    decode_id,
    scan_members,
)

__all__ = ["INDEX_NAME", "TarScenes", "looks_like_tars", "pack", "read_tars"]


@dataclass(frozen=True, slots=True)
class TarScene:
    """Where a scene lies: its members fill one byte range of one tar."""

    scene_id: str
    url: str
    start: int
    size_bytes: int
    num_views: int


@dataclass(frozen=True, slots=True)
class TarScenes:
    """Scenes inside tars; the table was made when the location was looked at."""

    scenes: tuple[TarScene, ...]

    def entries(self) -> Sequence[SceneEntry]:
        """List the scenes in the order of the tars."""
        return [
            SceneEntry(
                scene_id=scene.scene_id,
                num_views=scene.num_views,
                size_bytes=scene.size_bytes,
                group=scene.url,
            )
            for scene in self.scenes
        ]

    def read(self, scene_id: str) -> Scene:
        """Read cameras; a local tar's images are read when asked for, a remote one's now.

        Raises:
            SceneError: The tar is truncated or gone, or its members do not fit together.
        """
        place = next((scene for scene in self.scenes if scene.scene_id == scene_id), None)
        if place is None:
            raise SceneError(f"{scene_id}: no tar holds this scene")
        try:
            return build_scene(scene_id, _encoded_views(place))
        except SceneError:
            raise
        except (OSError, ValueError) as error:
            raise SceneError(f"{scene_id}: {error}") from error

    def fingerprint(self, scene_id: str) -> Fingerprint:
        """Return how the tar that holds a scene looks."""
        for scene in self.scenes:
            if scene.scene_id == scene_id:
                if is_remote(scene.url):
                    return of_object(scene.url)
                return of_files([scene.url], os.path.dirname(scene.url))
        return {"": "is not there"}


def looks_like_tars(location: str) -> bool:
    """Say whether a location is meant to be a URL, a tar, a pattern of tars or an index."""
    return "://" in location or location.endswith((".tar", ".json"))


def read_tars(location: str) -> TarScenes:
    """Find the scenes of a tar, folder, glob, brace pattern or index, local or remote.

    Raises:
        ValueError: Nothing there, a damaged tar or index, or a scene id that occurs twice.
    """
    indices: dict[str, dict[str, list[TarScene]]] = {}
    scenes: list[TarScene] = []
    for url in _tar_urls(location):
        folder = url.rpartition("/")[0]
        if folder not in indices:
            indices[folder] = _read_index(f"{folder}/{INDEX_NAME}" if folder else INDEX_NAME)
        scenes += indices[folder][url] if url in indices[folder] else _scan(url)
    if not scenes:
        raise ValueError(f"{location}: no tar there, or none that holds scenes")
    check_unique((scene.scene_id, scene.url) for scene in scenes)
    return TarScenes(tuple(scenes))


def _tar_urls(location: str) -> Iterator[str]:
    if "{" in location and (is_remote(location) or not os.path.exists(location)):
        from braceexpand import braceexpand

        for one in braceexpand(location):
            yield from _tar_urls(one)
    elif location.endswith(".json"):
        found = _read_index(location)
        if not found:
            raise ValueError(f"{location}: there is no such index")
        yield from found
    elif any(mark in location.rpartition("/")[2] for mark in "*?["):
        yield from (name for name in list_names(location) if name.endswith(".tar"))
    elif location.endswith(".tar"):
        yield os.path.expanduser(location) if not is_remote(location) else location
    else:
        yield from _tars_of_folder(location.rstrip("/"))


def _tars_of_folder(folder: str) -> list[str]:
    listed = list(_read_index(f"{folder}/{INDEX_NAME}"))
    if folder.startswith("http"):
        if not listed:
            raise ValueError(
                f"{folder}: has no {INDEX_NAME}, and http cannot list files; name tars"
            )
        return listed
    # A tar that the index names and the folder lacks stays listed: reading it says that it is gone.
    return sorted({*listed, *list_names(f"{folder}/*.tar")}, key=natural_key)


def _read_index(url: str) -> dict[str, list[TarScene]]:
    """Return the scenes of each tar's URL; empty where there is no index."""
    try:
        data = read_all(url)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{url}: cannot be read ({error})") from error
    try:
        index = json.loads(data)
        if index["format"] != INDEX_FORMAT:
            raise ValueError(f"format is {index['format']!r}, must be {INDEX_FORMAT!r}")
        return {
            _beside(url, tar["name"]): _indexed(_beside(url, tar["name"]), tar["scenes"])
            for tar in index["tars"]
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{url}: is no index of tars ({type(error).__name__}: {error}); without it the tars' "
            "headers are scanned, so remove it, or pack again"
        ) from error


def _beside(url: str, name: str) -> str:
    if not isinstance(name, str) or "/" in name or "\\" in name or name in ("", "..", "."):
        raise ValueError(f"tar name {name!r} must be a plain file name")
    folder, slash, _ = url.rpartition("/")
    return f"{folder}{slash}{name}"


def _indexed(url: str, scenes: list[dict[str, Any]]) -> list[TarScene]:
    return [
        TarScene(
            str(scene["scene_id"]),
            url,
            int(scene["start"]),
            int(scene["size_bytes"]),
            int(scene["num_views"]),
        )
        for scene in scenes
    ]


def _scan(url: str) -> list[TarScene]:
    try:
        with open_file(url) as file:
            members = scan_members(file, url)
    except OSError as error:
        raise ValueError(f"{url}: cannot be read ({error})") from error
    scenes = []
    for key, group in groupby(members, key=lambda member: member.key):
        parts = list(group)
        views = sum(part.kind == "color" for part in parts)
        start, end = parts[0].start, parts[-1].end
        scenes.append(TarScene(decode_id(key), url, start, end - start, views))
    check_unique((scene.scene_id, f"{url} at byte {scene.start}") for scene in scenes)
    return scenes


def _encoded_views(place: TarScene) -> list[tuple[str, Callable[[], EncodedView]]]:
    """Return what makes a scene's views, in the order of its cameras, or by name without them."""
    where, end = f"{place.url} at byte {place.start}", place.start + place.size_bytes
    if is_remote(place.url):
        data = read_range(place.url, place.start, place.size_bytes)
        members = scan_members(io.BytesIO(data), where, end=place.size_bytes)
        loads = [partial(_slice, data, part.data, part.size_bytes) for part in members]
    else:
        with open_file(place.url) as file:
            file.seek(place.start)
            members = scan_members(file, where, end=end)
        loads = [partial(read_range, place.url, part.data, part.size_bytes) for part in members]
    files: dict[tuple[str, str], partial[bytes]] = {}
    for member, load in zip(members, loads, strict=True):
        _check_member(member, place, files)
        files[member.kind, member.view_id] = load
    return _with_cameras(place, files)


def _check_member(member: Member, place: TarScene, files: dict[tuple[str, str], Any]) -> None:
    if decode_id(member.key) != place.scene_id:
        raise SceneError(
            f"{place.scene_id}: {place.url} holds {member.key!r} at byte {place.start}; its "
            f"{INDEX_NAME} is of other tars, so remove it or pack again"
        )
    if (member.kind, member.view_id) in files:
        raise SceneError(
            f"{place.scene_id}/view {member.view_id}: two {member.kind} members in {place.url}"
        )


def _with_cameras(
    place: TarScene, files: dict[tuple[str, str], "partial[bytes]"]
) -> list[tuple[str, Callable[[], EncodedView]]]:
    colors = sorted((view for kind, view in files if kind == "color"), key=natural_key)
    if not colors:
        raise SceneError(f"{place.scene_id}: {place.url} holds no colour images of it")
    cameras: dict[str, dict[str, Any]] = {view: {} for view in colors}
    if ("cameras", "") in files:
        cameras = _parse_cameras(files["cameras", ""](), place.scene_id)
        if cameras.keys() != set(colors):
            odd = sorted(cameras.keys() ^ set(colors))[:5]
            raise SceneError(
                f"{place.scene_id}: views {odd} have either a colour image or a camera in "
                f"{place.url}; every view must have both"
            )

    def view(view_id: str) -> EncodedView:
        encoded = EncodedView(
            scene_id=place.scene_id,
            view_id=view_id,
            load_color=files["color", view_id],
            load_depth=files.get(("depth", view_id)),
            **cameras[view_id],
        )
        _check_cameras(encoded)
        return encoded

    return [(view_id, partial(view, view_id)) for view_id in cameras]


def _check_cameras(view: EncodedView) -> None:
    if view.world_from_camera is not None:
        check_pose(view.world_from_camera, f"{view.where}: world_from_camera")
    for name, K in (("K_color", view.K_color), ("K_depth", view.K_depth)):
        if K is not None:
            check_intrinsics(K, f"{view.where}: {name}")


def _slice(data: bytes, start: int, size_bytes: int) -> bytes:
    return data[start : start + size_bytes]


def _parse_cameras(data: bytes, scene_id: str) -> dict[str, dict[str, Any]]:
    try:
        views = {str(view["view_id"]): view for view in json.loads(data)["views"]}
        return {view_id: _camera(view) for view_id, view in views.items()}
    except (
        ValueError,
        ArithmeticError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise SceneError(
            f"{scene_id}: its cameras.json cannot be understood ({type(error).__name__}: {error})"
        ) from error


def _camera(view: dict[str, Any]) -> dict[str, Any]:
    camera: dict[str, Any] = {
        name: _matrix(view.get(name), side) for name, side in MATRICES.items()
    }
    if view.get("K_color_size") is not None:
        rows, cols = (int(side) for side in view["K_color_size"])
        camera["K_color_size"] = (rows, cols)
    if view.get("turns") is not None:
        camera["turns"] = int(view["turns"]) % 4
    return camera


def _matrix(rows: Any, side: int) -> Float[np.ndarray, "side side"] | None:  # noqa: ANN401 - JSON
    if rows is None:
        return None
    matrix = np.array([[float(number) for number in row] for row in rows])
    if matrix.shape != (side, side):
        raise ValueError(f"a matrix is {matrix.shape}, must be {(side, side)}")
    return matrix
