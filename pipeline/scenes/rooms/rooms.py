"""Procedural rooms with exact depth, pose and intrinsics: for desk models, the demo and the tests.

A room is drawn from a seed (`layout`), its lamps' light is baked (`lighting`), someone films it
(`walks`), and each view has an exposure, a white balance and a light of its own, so that a surface
looks different from view to view as it does in a real capture. Depth is the exact z-depth of the
pixel's centre; the truth about every pixel (`truth.py`) is there for who asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.fingerprints import Fingerprint
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, View

if TYPE_CHECKING:
    from vega3d.pipeline.scenes.rooms.film import Film


@dataclass(frozen=True, slots=True)
class Rooms:
    """`num_rooms` rooms; each is another one, and the same in every source with this seed."""

    num_rooms: int
    views: int = 16
    height: int = 240
    width: int = 320
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field once."""
        if min(self.num_rooms, self.views) < 1 or min(self.height, self.width) < 8:
            raise ValueError(f"rooms need one room, one view and 8x8 pixels at least, got {self}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    def entries(self) -> Sequence[SceneEntry]:
        """List the rooms; they take no bytes anywhere."""
        return [
            SceneEntry(scene_id=_room_id(index), num_views=self.views, size_bytes=0)
            for index in range(self.num_rooms)
        ]

    def film(self, scene_id: str) -> "Film":
        """Return a room with its cameras; nothing is rendered yet.

        Raises:
            SceneError: No such room.
        """
        from vega3d.pipeline.scenes.rooms.film import film_room  # whoever lists needs no compiler

        digits = scene_id.removeprefix("room")
        index = int(digits) if digits.isdecimal() and digits.isascii() else self.num_rooms
        if index >= self.num_rooms or scene_id != _room_id(index):
            last = _room_id(self.num_rooms - 1)
            raise SceneError(f"{scene_id}: there are rooms {_room_id(0)} to {last} only")
        return film_room((self.seed, index), self.views, self.height, self.width)

    def read(self, scene_id: str) -> Scene:
        """Build a room; views are rendered when asked for.

        Raises:
            SceneError: No such room.
        """
        film = self.film(scene_id)
        views = [
            View(
                view_id=f"{index:04d}",
                read_rgb=partial(film.rgb, index),
                read_depth_m=partial(film.depth_m, index),
                K_color=film.K,
                K_depth=film.K,
                world_from_camera=pose,
            )
            for index, pose in enumerate(film.poses)
        ]
        return Scene(scene_id, tuple(views))

    def fingerprint(self, scene_id: str) -> Fingerprint:
        """Return what a room is drawn from: the same settings give the same room."""
        return {"rooms": f"{self.seed} {scene_id} {self.views} {self.height} {self.width}"}

    def phrases(self, scene_id: str) -> list[list[str]]:
        """Return what every view of a room shows, in words; see `truth.phrases`."""
        from vega3d.pipeline.scenes.rooms.truth import phrases

        film = self.film(scene_id)
        return [phrases(film, index) for index in range(self.views)]


def _room_id(index: int) -> str:
    return f"room{index:04d}"


def parse_rooms(location: str) -> Rooms:
    """Parse `rooms:8` or `rooms:8?views=16&height=240&width=320&seed=0`; raises ValueError."""
    count, _, options = location.removeprefix("rooms:").partition("?")
    try:
        known = {"views", "height", "width", "seed"}
        given = dict(parse_qsl(options, keep_blank_values=True, strict_parsing=bool(options)))
        if given.keys() - known:
            raise ValueError(f"options are {sorted(known)}")
        return Rooms(int(count), **{name: int(value) for name, value in given.items()})
    except ValueError as error:
        raise ValueError(
            f"{location!r}: {error}; write rooms:8 or rooms:8?views=16&height=240&width=320&seed=0"
        ) from error
