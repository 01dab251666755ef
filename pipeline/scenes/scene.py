"""Scenes and views: what every reader gives.

Cameras are OpenCV cameras (x right, y down, z forward); positions are in metres; depth is z-depth
along the optical axis and 0 means no reading. Readers convert units; nothing downstream does.
Pixel coordinates are continuous: the first pixel's centre is (0.5, 0.5).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vega3d.pipeline.shapes import Float, Float32, UInt8


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One image of a scene; pixels are decoded when asked for, cameras are there from the start."""

    view_id: str
    """Unique within its scene."""

    read_rgb: Callable[[], UInt8[np.ndarray, "H W 3"]]
    """Decode the colour image; raises SceneError, naming the view, where it cannot."""

    read_depth_m: Callable[[], Float32[np.ndarray, "h w"]] | None = None
    """Decode the depth image, metres; None where the source has no depth."""

    K_color: Float[np.ndarray, "3 3"] | None = None
    """Intrinsics of the colour image, px."""

    K_color_size: tuple[int, int] | None = None
    """Rows and columns of the image that K_color is of, where the source says so."""

    K_depth: Float[np.ndarray, "3 3"] | None = None
    """Intrinsics of the depth image, px."""

    world_from_camera: Float[np.ndarray, "4 4"] | None = None
    """Pose; not finite, or all zero, where tracking was lost: such views are dropped, counted."""

    read_color_bytes: Callable[[], bytes] | None = None
    """Return the JPEG or PNG that the source holds; None where it holds none."""

    read_rgb_at: Callable[[int], UInt8[np.ndarray, "H/d W/d 3"]] | None = None
    """Decode the colour image with its sides divided by 2, 4 or 8, which must leave no rest; None
    where it comes in one size alone."""

    read_turns: Callable[[], int] | None = None
    """Return how many quarter turns clockwise show it upright (EXIF, or what the source says);
    pixels, depth and cameras are of the image before any turn."""

    is_independent: bool = False
    """Several threads may read it and the scene's other views at the same time."""


def with_readers(view: View, wrapped: Callable[[Callable[..., Any]], Callable[..., Any]]) -> View:
    """Return a view each of whose readers is wrapped: pixels, depth, bytes and turns alike."""
    given = {one.name: getattr(view, one.name) for one in fields(view)}
    readers: dict[str, Any] = {
        name: wrapped(read) for name, read in given.items() if callable(read)
    }
    return replace(view, **readers)


@dataclass(frozen=True, slots=True)
class BadView:
    """A view that is there and cannot be used."""

    view_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One posed RGB-D capture, or one video."""

    scene_id: str
    views: tuple[View, ...]
    bad_views: tuple[BadView, ...] = ()
    """Views that the source lists beside these: a file is missing, or a camera cannot be true."""

    notes: tuple[str, ...] = ()
    """What a person should know: no poses, files that look like depth and were not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneEntry:
    """What planning knows of a scene without touching a pixel."""

    scene_id: str
    num_views: int
    size_bytes: int
    """Bytes the source holds for it, compressed."""

    group: str = ""
    """Scenes of one unit share it: the URL of their tar, or "" where scenes lie apart."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something below a location that is not read."""

    place: str
    reason: str


@runtime_checkable
class SceneSource(Protocol):
    """A place that lists scenes and reads them; picklable, so that workers get their own.

    It may have beside these `skipped() -> Sequence[Skipped]`: what lies there and is not read; and
    `fingerprint(scene_id) -> Mapping[str, str]`: how a scene's files look, by name or kind, for a
    later run to see that they changed (`fingerprints.of_files` makes it of paths).
    """

    def entries(self) -> Sequence[SceneEntry]:
        """List every scene in a fixed order, without decoding anything."""
        ...

    def read(self, scene_id: str) -> Scene:
        """Return one scene with lazy views; raises SceneError where it cannot."""
        ...


def skipped(source: SceneSource) -> Sequence[Skipped]:
    """Return what a source found and does not read; nothing where it does not say."""
    listed: Callable[[], Sequence[Skipped]] | None = getattr(source, "skipped", None)
    return listed() if listed else ()


def check_unique(places: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError where two of the (scene id, place) pairs share an id, naming both places."""
    seen: dict[str, str] = {}
    for scene_id, place in places:
        if scene_id in seen:
            raise ValueError(
                f"scene id {scene_id!r} occurs twice: {seen[scene_id]} and {place}; rename one"
            )
        if not scene_id.isprintable():
            raise ValueError(f"{place}: scene id {scene_id!r} is no printable Unicode; rename it")
        seen[scene_id] = place


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sorting key by which `9.jpg` comes before `10.jpg`."""
    # re.split alternates text and digits, so equal positions hold equal types.
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
