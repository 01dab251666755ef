"""Captures below a folder, whatever their layout: which there are, and what is not read.

A layout is one file beside this one; `reading.py` has the table of all. A scene id is the path of
the capture below the location (with slashes), or the folder's own name where the location is the
capture. Listing reads folders, and small files only where nothing else says how many views there
are.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Protocol

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.files import Folder, list_folder, printable, size_bytes
from vega3d.pipeline.scenes.fingerprints import Fingerprint, of_files
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, Skipped, check_unique, natural_key

_COLOR_LIKE = ("rgb", "image", "images", "imgs", "frames", "colour", "colors", "rgbs")
_IMAGES = (".jpg", ".jpeg", ".png", ".heic")
_VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".bz2", ".xz")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one scene lies."""

    path: str
    """Its folder, or its one file."""

    num_views: int
    name: str = ""
    """Its path below the folder that holds it; "" where it is that folder."""

    part: str = ""
    """Which of several scenes that share a path."""

    data: tuple[str, ...] = ()
    """Files, and folders whose files hold it."""


class Layout(Protocol):
    """One way in which captures lie on a disk; picklable, holds no state."""

    name: str
    """As people call it."""

    looks: str
    """Its files, in one line."""

    def claims(self, folder: Folder) -> bool:
        """Say whether a folder holds captures of this layout, from its names alone."""
        ...

    def places(self, folder: Folder) -> Sequence[Place]:
        """List the captures of a folder that was claimed, without decoding anything."""
        ...

    def read(self, place: Place, scene_id: str) -> Scene:
        """Return the scene there with lazy views; raises SceneError or OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Captures:
    """The captures below a folder, or the ones that it holds itself; or those of one file."""

    root: str
    layouts: tuple[Layout, ...]

    def entries(self) -> Sequence[SceneEntry]:
        """List every capture by its path, and empty folders beside captures: nothing vanishes.

        Raises:
            ValueError: The folder may not be listed, or two captures get one id.
        """
        return [
            SceneEntry(
                scene_id=scene_id, num_views=place.num_views, size_bytes=size_bytes(place.data)
            )
            for scene_id, _, place in self.placed()
        ]

    def placed(self) -> list[tuple[str, Layout | None, Place]]:
        """Return every capture's id, its layout (None of an empty folder) and where it lies.

        Raises:
            ValueError: As `entries`.
        """
        found = [
            (self._scene_id(folder.path, place), layout, place)
            for folder, layout in self._look().captures
            for place in _places(folder, layout)
        ]
        check_unique((scene_id, place.path) for scene_id, _, place in found)
        return sorted(found, key=lambda each: natural_key(each[0]))

    def skipped(self) -> Sequence[Skipped]:
        """List what lies beside the captures and is not read."""
        return tuple(self._look().skipped)

    def read(self, scene_id: str) -> Scene:
        """Read cameras; images are decoded when asked for.

        Raises:
            SceneError: No such capture, no usable view, or cameras that cannot be true.
        """
        try:
            layout, place = self._find(scene_id)
            return layout.read(place, scene_id)
        except OSError as error:
            raise SceneError(f"{scene_id}: cannot be read ({error})") from error

    def fingerprint(self, scene_id: str) -> Fingerprint:
        """Return how a capture's files look."""
        try:
            _, place = self._find(scene_id)
        except (SceneError, OSError):
            return {"": "is not there"}
        is_folder = os.path.isdir(place.path)
        return of_files(place.data, place.path if is_folder else os.path.dirname(place.path))

    def _look(self) -> "_Found":
        found = _Found(self.layouts)
        try:
            found.look(self.root)
        except OSError as error:
            raise ValueError(f"{self.root}: cannot be listed ({error})") from error
        return found

    def _scene_id(self, folder: str, place: Place) -> str:
        is_file = os.path.isfile(self.root)
        root = os.path.dirname(self.root) if is_file else self.root
        below = PurePath(folder).relative_to(root).as_posix() if folder else "."
        parts = [part for part in (below, place.name) if part not in ("", ".")]
        own = Path(place.path).resolve()
        return "/".join(parts) or (own.stem if own.is_file() else own.name)

    def _find(self, scene_id: str) -> tuple[Layout, Place]:
        # A scene id comes from our own listing or from a user; it must stay below the root.
        parts = PurePath(scene_id).parts
        if os.path.isabs(scene_id) or ".." in parts or "\0" in scene_id:
            raise SceneError(f"{scene_id!r} is no path below {self.root}")
        for depth in range(len(parts), -1, -1):
            path = os.path.join(self.root, *parts[:depth])
            if not os.path.exists(path):
                continue
            folder = list_folder(path)
            layout = _claimant(self.layouts, folder)
            for place in layout.places(folder) if layout else ():
                if layout and self._scene_id(folder.path, place) == scene_id:
                    return layout, place
            if depth == len(parts) and layout is None:
                raise SceneError(f"{scene_id}: {path} holds no colour images")
        raise SceneError(f"{scene_id}: there is no folder {os.path.join(self.root, scene_id)}")


def holds_captures(root: str, layouts: tuple[Layout, ...]) -> bool:
    """Say whether a capture lies at or below a folder; stops at the first."""
    return next(_walk(root, layouts), None) is not None


def _walk(root: str, layouts: tuple[Layout, ...]) -> Iterator[Folder]:
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        real = os.path.realpath(path)
        if real in seen:
            continue  # a link that leads back
        seen.add(real)
        try:
            folder = list_folder(path)
        except OSError:
            if path == root:
                raise
            continue
        if _claimant(layouts, folder):
            yield folder
        else:
            waiting.extend(folder.join(name) for name in reversed(folder.folders))


def _places(folder: Folder, layout: Layout | None) -> Sequence[Place]:
    """Return a folder's captures; one that holds none, or cannot say which, is one without views.

    Reading it says why.
    """
    path = folder.join(folder.files[0]) if folder.alone else folder.path
    try:
        return layout.places(folder) if layout else (Place(path=path, num_views=0),)
    except SceneError:
        return (Place(path=path, num_views=0),)


def _claimant(layouts: tuple[Layout, ...], folder: Folder) -> Layout | None:
    return next((layout for layout in layouts if layout.claims(folder)), None)


@dataclass
class _Found:
    """One walk below a folder."""

    layouts: tuple[Layout, ...]
    captures: list[tuple[Folder, Layout | None]] = field(default_factory=list)
    """None where the folder is empty."""

    skipped: list[Skipped] = field(default_factory=list)
    _seen: dict[str, str] = field(default_factory=dict)

    def look(self, path: str) -> bool:
        """Note the captures at or below `path`; False where there is none."""
        real = os.path.realpath(path)
        if real in self._seen:
            self._skip(path, f"is the same folder as {self._seen[real]}, by a link")
            return True
        self._seen[real] = path
        folder = list_folder(path)
        if layout := _claimant(self.layouts, folder):
            self.captures.append((folder, layout))
            return True
        without = []
        for name in folder.folders:
            if not self._look_below(folder.join(name)):
                without.append(name)
        if len(without) == len(folder.folders):
            return False
        for name in without:
            self._name(folder.join(name))
        for name in folder.files:
            if name.lower().endswith((*_VIDEOS, *_ARCHIVES)):
                self._skip(folder.join(name), "is a video or an archive beside captures")
        return True

    def _look_below(self, path: str) -> bool:
        try:
            if not os.path.basename(path).isprintable():
                self._skip(path, "has a name that is no printable Unicode; rename it")
                return True
            return self.look(path)
        except OSError as error:
            self._skip(path, f"cannot be listed ({error.strerror})")
            return True

    def _name(self, path: str) -> None:
        folder = list_folder(path)
        if folder.files or folder.folders:
            self._skip(path, _why_not(folder))
        else:
            self.captures.append((folder, None))

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append(Skipped(printable(path), reason))


def _why_not(folder: Folder) -> str:
    """Say what a folder without captures holds instead."""
    lower = {name.lower(): name for name in folder.folders}
    like = next((lower[name] for name in _COLOR_LIKE if name in lower), None)
    if like is not None:
        return f"is no layout that is known: it has {like}/, and a ScanNet export has color/"
    for suffixes, what, advice in (
        (_VIDEOS, "videos", "give that folder by itself"),
        (_ARCHIVES, "archives", "unpack them, or give shards by themselves"),
        (_IMAGES, "images without cameras", "a ScanNet export has them in color/"),
    ):
        count = sum(name.lower().endswith(suffixes) for name in folder.files)
        if count:
            return f"is no layout that is known: it holds {what} ({count}): {advice}"
    return f"holds no capture (files: {len(folder.files)}, folders: {len(folder.folders)})"
