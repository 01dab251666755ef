"""Posed RGB-D captures in folders: ScanNet's export, `posed_images`, and 7-Scenes.

A capture is a folder; its scene id is its path below the location (with slashes), or its own name
where the location is the capture. Listing reads folders only, and no file.

Depth intrinsics of a ScanNet export with `intrinsic_per_frame/`: these captures hold depth that
was registered to colour by resizing (their `intrinsic_depth` is `intrinsic_color` times 256/640 to
six digits), so each view's K_depth is its own K_color at that scale: on corridor_lidar, depth of
neighbouring views then agrees to 13.8 mm instead of 15.1 mm with the median. Where the two files
are no plain scaling of each other, `intrinsic_depth` stays as it is.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.local_files import read_plain
from vega3d.pipeline.scenes.cameras import check_pose, parse_intrinsics, parse_matrix
from vega3d.pipeline.scenes.images import EncodedView, decoded_view, image_size
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, check_unique, natural_key

_MAX_TEXT_BYTES = 1 << 20
"""Of a matrix as text."""

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_SEVEN_SCENES_COLOR = ".color.png"
SEVEN_SCENES_K = np.array([[585.0, 0, 320], [0, 585, 240], [0, 0, 1]])
"""Of colour and depth alike. Source: the data set's page, microsoft.com, RGB-D Dataset 7-Scenes."""


@dataclass(frozen=True, slots=True)
class RgbdFolders:
    """The captures below a folder, or the one that it is."""

    root: str

    def entries(self) -> Sequence[SceneEntry]:
        """List every capture by its path, without opening a file.

        Raises:
            ValueError: A folder that may not be listed.
        """
        try:
            if _kind(_list(self.root)) is not None:
                return [_entry(_list(self.root), self._own_name())]
            found = [
                _entry(listing, Path(listing.path).relative_to(self.root).as_posix())
                for listing in _walk(self.root)
            ]
        except OSError as error:
            raise ValueError(f"{self.root}: cannot be listed ({error})") from error
        check_unique((entry.scene_id, f"{self.root}/{entry.scene_id}") for entry in found)
        return sorted(found, key=lambda entry: natural_key(entry.scene_id))

    def read(self, scene_id: str) -> Scene:
        """Read cameras; images are decoded when asked for.

        Raises:
            SceneError: No views, missing files, or cameras that cannot be true.
        """
        folder = Path(self._path(scene_id))
        if not folder.is_dir():
            raise SceneError(f"{scene_id}: there is no folder {folder}")
        try:
            listing = _list(str(folder))
            kind = _kind(listing) or "empty"
            encoded = _READERS[kind](folder, scene_id) if kind != "empty" else []
            if not encoded:
                raise SceneError(f"{scene_id}: {folder} holds no colour images")
            return Scene(scene_id, tuple(map(decoded_view, _with_depth_size(encoded))))
        except OSError as error:
            raise SceneError(f"{scene_id}: cannot be read ({error})") from error

    def _own_name(self) -> str:
        return Path(self.root).resolve().name

    def _path(self, scene_id: str) -> str:
        if _kind(_list(self.root)) is not None and scene_id == self._own_name():
            return self.root
        # A scene id comes from our own listing or from a user; it must stay below the root.
        if os.path.isabs(scene_id) or ".." in Path(scene_id).parts:
            raise SceneError(f"{scene_id!r} is no path below {self.root}")
        return os.path.join(self.root, scene_id)


def holds_captures(root: str) -> bool:
    """Say whether a capture lies at or below `root`; stops at the first."""
    return next(_walk(root), None) is not None


@dataclass(frozen=True, slots=True)
class _Listing:
    """One folder's files with their sizes still unread, and its folders."""

    path: str
    files: dict[str, "os.DirEntry[str]"]
    folders: tuple[str, ...]


def _list(path: str) -> _Listing:
    files, folders = {}, []
    with os.scandir(path) as found:
        for entry in found:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            else:
                files[entry.name] = entry
    return _Listing(path, files, tuple(sorted(folders, key=natural_key)))


def _kind(listing: _Listing) -> str | None:
    """Name a capture's layout, or None where the folder is no capture."""
    if "color" in listing.folders:
        return "scannet"
    if any(name.endswith(_SEVEN_SCENES_COLOR) for name in listing.files):
        return "7-scenes"
    if "intrinsic.txt" in listing.files or "depth_intrinsic.txt" in listing.files:
        return "posed_images"
    photos = (name for name in listing.files if name.lower().endswith((".jpg", ".jpeg")))
    if any(f"{Path(name).stem}.txt" in listing.files for name in photos):
        return "posed_images"
    return None


def _walk(root: str) -> Iterator[_Listing]:
    """Yield captures, and beside them empty folders: an empty scene must not vanish silently."""
    seen: set[str] = set()
    waiting, empty, captures = [root], [], 0
    while waiting:
        path = waiting.pop()
        if (real := os.path.realpath(path)) in seen:
            continue  # a link that leads back
        seen.add(real)
        listing = _list(path)
        if _kind(listing) is not None:
            captures += 1
            yield listing
            continue
        if not listing.files and not listing.folders:
            empty.append(listing)
        waiting.extend(os.path.join(path, name) for name in reversed(listing.folders))
    if captures:
        yield from empty


def _entry(listing: _Listing, scene_id: str) -> SceneEntry:
    kind = _kind(listing)
    inner = ("color", "depth", "pose") if kind == "scannet" else ()
    listings = [_list(os.path.join(listing.path, n)) for n in inner if n in listing.folders]
    colors = _color_names(listings[0] if kind == "scannet" else listing, kind)
    size_bytes = sum(
        _size(entry) for found in (listing, *listings) for entry in found.files.values()
    )
    return SceneEntry(scene_id=scene_id, num_views=len(colors), size_bytes=size_bytes)


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere; reading its view says so
        return 0


def _color_names(listing: _Listing, kind: str | None) -> list[str]:
    suffixes: tuple[str, ...] = {
        "scannet": _IMAGE_SUFFIXES,
        "posed_images": _IMAGE_SUFFIXES[:2],
        "7-scenes": (_SEVEN_SCENES_COLOR,),
        None: (),
    }[kind]
    names = [name for name in listing.files if name.lower().endswith(suffixes)]
    return sorted(names, key=natural_key)


def _scannet(folder: Path, scene_id: str) -> list[EncodedView]:
    names = _color_names(_list(str(folder / "color")), "scannet")
    has_depth, has_pose = (folder / "depth").is_dir(), (folder / "pose").is_dir()
    intrinsic, per_frame = folder / "intrinsic", folder / "intrinsic_per_frame"
    K_color = K_depth = None
    if names and (has_depth or has_pose):
        K_color = _intrinsics(intrinsic / "intrinsic_color.txt", scene_id)
    if names and has_depth:
        K_depth = _intrinsics(intrinsic / "intrinsic_depth.txt", scene_id)
    views = _views(
        folder,
        scene_id,
        names,
        color=lambda stem, name: folder / "color" / name,
        depth=(lambda stem: folder / "depth" / f"{stem}.png") if has_depth else None,
        pose=(lambda stem: folder / "pose" / f"{stem}.txt") if has_pose else None,
    )
    views = [replace(view, K_color=K_color, K_depth=K_depth) for view in views]
    return [_own_intrinsics(view, per_frame) for view in views] if per_frame.is_dir() else views


def _posed_images(folder: Path, scene_id: str) -> list[EncodedView]:
    listing = _list(str(folder))
    names = _color_names(listing, "posed_images")
    has_depth = any(f"{Path(name).stem}.png" in listing.files for name in names)
    has_pose = any(f"{Path(name).stem}.txt" in listing.files for name in names)
    K_color = _intrinsics(folder / "intrinsic.txt", scene_id) if names else None
    K_depth = _intrinsics(folder / "depth_intrinsic.txt", scene_id) if has_depth else None
    views = _views(
        folder,
        scene_id,
        names,
        color=lambda stem, name: folder / name,
        depth=(lambda stem: folder / f"{stem}.png") if has_depth else None,
        pose=(lambda stem: folder / f"{stem}.txt") if has_pose else None,
    )
    return [replace(view, K_color=K_color, K_depth=K_depth) for view in views]


def _seven_scenes(folder: Path, scene_id: str) -> list[EncodedView]:
    names = _color_names(_list(str(folder)), "7-scenes")
    views = _views(
        folder,
        scene_id,
        names,
        color=lambda stem, name: folder / name,
        depth=lambda stem: folder / f"{stem}.depth.png",
        pose=lambda stem: folder / f"{stem}.pose.txt",
    )
    K = SEVEN_SCENES_K
    return [replace(view, K_color=K, K_depth=K, invalid_mm=65535) for view in views]


_READERS: dict[str, Callable[[Path, str], list[EncodedView]]] = {
    "scannet": _scannet,
    "posed_images": _posed_images,
    "7-scenes": _seven_scenes,
}


def _views(
    folder: Path,
    scene_id: str,
    names: list[str],
    *,
    color: Callable[[str, str], Path],
    depth: Callable[[str], Path] | None,
    pose: Callable[[str], Path] | None,
) -> list[EncodedView]:
    """Return views without intrinsics; every depth and pose file must be there."""
    views: dict[str, EncodedView] = {}
    for name in names:
        stem = name.removesuffix(_SEVEN_SCENES_COLOR)
        stem = Path(name).stem if stem == name else stem
        where = f"{scene_id}/view {stem}"
        if stem in views:
            raise SceneError(f"{where}: two colour images have this name; keep one in {folder}")
        depth_path = None if depth is None else _existing(depth(stem), where)
        world_from_camera = None if pose is None else _pose(_existing(pose(stem), where), where)
        views[stem] = EncodedView(
            scene_id=scene_id,
            view_id=stem,
            load_color=partial(_read_file, str(color(stem, name))),
            load_depth=None if depth_path is None else partial(_read_file, str(depth_path)),
            world_from_camera=world_from_camera,
        )
    return list(views.values())


def _own_intrinsics(view: EncodedView, per_frame: Path) -> EncodedView:
    K = _intrinsics(per_frame / f"{view.view_id}.txt", view.where)
    if view.K_color is None or view.K_depth is None:
        return replace(view, K_color=K)
    scale = view.K_depth / np.where(view.K_color == 0, 1, view.K_color)
    is_resized = np.allclose([scale[0, 0], scale[1, 1]], [scale[0, 2], scale[1, 2]], rtol=1e-4)
    K_depth = np.diag([scale[0, 0], scale[1, 1], 1]) @ K if is_resized else view.K_depth
    return replace(view, K_color=K, K_depth=K_depth)


def _with_depth_size(views: list[EncodedView]) -> list[EncodedView]:
    first = views[0]
    if first.load_depth is None:
        return views
    size = image_size(first.load_depth(), first.where)
    return [replace(view, depth_size=size) for view in views]


def _intrinsics(path: Path, where: str) -> Float64[np.ndarray, "3 3"]:
    if not path.is_file():
        raise SceneError(
            f"{where}: intrinsics are missing; the file {path} must exist (3x3 or 4x4)"
        )
    return parse_intrinsics(_text(path), str(path))


def _pose(path: Path, where: str) -> Float64[np.ndarray, "4 4"]:
    pose = parse_matrix(_text(path), 4, 4, str(path))
    check_pose(pose, where)
    return pose


def _existing(path: Path, where: str) -> Path:
    if not path.is_file():
        raise SceneError(f"{where}: the file {path} must exist, as other views have theirs")
    return path


def _text(path: Path) -> str:
    return read_plain(str(path), _MAX_TEXT_BYTES).decode("ascii", errors="replace")


def _read_file(path: str) -> bytes:
    return read_plain(path)
