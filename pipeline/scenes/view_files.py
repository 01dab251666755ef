"""Captures with a colour, a depth and a pose file for each view, matched by name."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import check_pose, parse_intrinsics, parse_matrix
from vega3d.pipeline.scenes.encoded import EncodedView
from vega3d.pipeline.scenes.files import Folder, read_file, read_text
from vega3d.pipeline.shapes import Float64

COLOR_SUFFIXES = (".jpg", ".jpeg", ".png", ".heic")
_DEPTH_LIKE = (".png", ".npy", ".tiff", ".tif", ".exr", ".pgm", ".depth", ".bin", ".npz")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewFiles:
    """Paths by view id; where a capture has depth or poses at all, each view must have its own."""

    scene_id: str
    color: Mapping[str, str]
    depth: Mapping[str, str] | None
    """None where the capture has no depth."""

    pose: Mapping[str, str] | None
    expected_depth: Callable[[str], str]
    """What a view's depth file would be called, for the message where it is missing."""

    expected_pose: Callable[[str], str]

    def view(self, view_id: str) -> EncodedView:
        """Return a view without intrinsics.

        Raises:
            SceneError: Its depth or pose file is missing, or its pose cannot be true.
            OSError: Its pose file cannot be read.
        """
        where = f"{self.scene_id}/view {view_id}"
        depth = _own(self.depth, view_id, self.expected_depth, where)
        pose = _own(self.pose, view_id, self.expected_pose, where)
        return EncodedView(
            scene_id=self.scene_id,
            view_id=view_id,
            load_color=partial(read_file, self.color[view_id]),
            load_depth=None if depth is None else partial(read_file, depth),
            world_from_camera=None if pose is None else read_pose(pose, where),
        )

    def notes(self, folder: Folder, read: Iterable[str] = ()) -> tuple[str, ...]:
        """Say what the capture lacks, and what in its folder looks like depth and is not read.

        Args:
            folder: The capture's.
            read: Folders in it that were read.
        """
        notes = []
        if self.depth is None:
            notes.append("has no depth: its tokens get no positions")
        if self.pose is None:
            notes.append("has no poses: its tokens get no positions")
        return (*notes, *_unread_depth(self, folder, tuple(read)))


def unique_colors(names: Mapping[str, str], all_names: Iterable[str], where: str) -> None:
    """Raise SceneError where two colour images differ in nothing but their ending."""
    for name in all_names:
        stem, dot, suffix = name.rpartition(".")
        if f"{dot}{suffix}".lower() in COLOR_SUFFIXES and names.get(stem) not in (None, name):
            raise SceneError(f"{where}/view {stem}: two colour images have this name; keep one")


def read_intrinsics(path: str, where: str) -> Float64[np.ndarray, "3 3"]:
    """Read a 3x3 or 4x4 file; raises SceneError where it is missing or cannot be true."""
    try:
        return parse_intrinsics(read_text(path), path)
    except FileNotFoundError as error:
        raise SceneError(
            f"{where}: intrinsics are missing; the file {path} must exist (3x3 or 4x4)"
        ) from error


def read_pose(path: str, where: str) -> Float64[np.ndarray, "4 4"]:
    """Read a camera-to-world file; raises SceneError where it is no rigid pose, or OSError."""
    pose = parse_matrix(read_text(path), 4, 4, path)
    check_pose(pose, where)
    return pose


def _own(
    files: Mapping[str, str] | None, view_id: str, expected: Callable[[str], str], where: str
) -> str | None:
    if files is None:
        return None
    if view_id not in files:
        raise SceneError(
            f"{where}: the file {expected(view_id)} must exist, as other views have theirs"
        )
    return files[view_id]


def _unread_depth(files: ViewFiles, folder: Folder, read: tuple[str, ...]) -> list[str]:
    notes = []
    used = {path.rpartition("/")[2] for path in (files.depth or {}).values()}
    for name in folder.folders:
        inside = folder.open_folder(name).files
        if name in read:
            if unused := [file for file in inside if _is_depth(file) and file not in used]:
                notes.append(
                    f"{len(unused)} files in {name}/ belong to no colour image, {unused[0]} among "
                    "them, and were not read"
                )
        elif "depth" in name.lower() and (count := sum(map(_is_depth, inside))):
            notes.append(f"{name}/ looks like depth ({count} files) and was not read")
    beside = [n for n in folder.files if "depth" in n.lower() and _is_depth(n) and n not in used]
    if beside:
        notes.append(f"{len(beside)} files that look like depth, {beside[0]} among them, were "
                     "not read")  # fmt: skip
    return notes


def _is_depth(name: str) -> bool:
    return name.lower().endswith(_DEPTH_LIKE)
