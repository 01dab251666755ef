"""Procedural rooms with exact depth, pose and intrinsics: for desk models, the demo and the tests.

A room is drawn from a seed (`layout`), its lamps' light is baked (`lighting`), someone films it
(`walks`), and each view has an exposure, a white balance and a light of its own, so that a surface
looks different from view to view as it does in a real capture. Depth is the exact z-depth of the
pixel's centre; the truth about every pixel (`truth.py`) is there for who asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from urllib.parse import parse_qsl

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.rooms.casting import Solids, cast
from vega3d.pipeline.scenes.rooms.layout import Room, furnished_room
from vega3d.pipeline.scenes.rooms.lighting import Exposure, Lights, bake, shade
from vega3d.pipeline.scenes.rooms.solids import room_solids
from vega3d.pipeline.scenes.rooms.truth import phrases
from vega3d.pipeline.scenes.rooms.walks import walk
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, View


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
            SceneEntry(scene_id=f"room{index:04d}", num_views=self.views, size_bytes=0)
            for index in range(self.num_rooms)
        ]

    def film(self, scene_id: str) -> "Film":
        """Return a room with its cameras; nothing is rendered yet.

        Raises:
            SceneError: No such room.
        """
        ids = [entry.scene_id for entry in self.entries()]
        if scene_id not in ids:
            raise SceneError(f"{scene_id}: there are rooms {ids[0]} to {ids[-1]} only")
        return film_room((self.seed, ids.index(scene_id)), self.views, self.height, self.width)

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

    def phrases(self, scene_id: str) -> list[list[str]]:
        """Return what every view of a room shows, in words; see `truth.phrases`."""
        film = self.film(scene_id)
        return [phrases(film, index) for index in range(self.views)]


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


@dataclass(frozen=True)
class Film:
    """A room and the cameras that film it."""

    room: Room
    lights: Lights
    K: Float64[np.ndarray, "3 3"]
    poses: tuple[Float64[np.ndarray, "4 4"], ...]
    exposures: tuple[Exposure, ...]
    height: int
    width: int

    @cached_property
    def solids(self) -> Solids:
        """Return the room as arrays, which is all that depth needs."""
        return room_solids(self.room)

    @cached_property
    def lit_solids(self) -> Solids:
        """Return the same, its light baked when first asked for."""
        bake(self.solids, self.lights)
        return self.solids

    def cast(
        self, index: int
    ) -> tuple[Float64[np.ndarray, "h w"], Int64[np.ndarray, "h w"], Int64[np.ndarray, "h w"]]:
        """Return z-depth (0 where nothing is met), solid and face at every pixel's centre."""
        shape = self.height, self.width
        depth_m, solid, face = np.zeros(shape), np.zeros(shape, int), np.zeros(shape, int)
        cast(self.solids, self.poses[index], self.K, depth_m, solid, face)
        return depth_m, solid, face

    def depth_m(self, index: int) -> Float32[np.ndarray, "h w"]:
        """Return the exact z-depth of every pixel's centre."""
        return self.cast(index)[0].astype(np.float32)

    def rgb(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return the lit picture as the view's camera exposes it."""
        _, solid, face = self.cast(index)
        rgb = np.zeros((self.height, self.width, 3), np.uint8)
        pose, exposure = self.poses[index], self.exposures[index]
        shade(self.lit_solids, self.lights, exposure, pose, self.K, solid, face, rgb)
        return rgb


def film_room(key: tuple[int, int], num_views: int, height: int, width: int) -> Film:
    """Return the room of a key (seed, number) and its first `num_views` views."""
    drawing, walking, exposing = (np.random.default_rng([*key, part]) for part in range(3))
    room = furnished_room(drawing)
    lights = _lights(room, drawing)
    focal = drawing.uniform(0.5, 0.9) * width
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    poses = tuple(walk(room, num_views, walking))
    exposures = tuple(_exposure(exposing) for _ in poses)
    return Film(room, lights, K, poses, exposures, height, width)


def _lights(room: Room, rng: np.random.Generator) -> Lights:
    warm = np.array((1.0, rng.uniform(0.82, 1.0), rng.uniform(0.62, 1.0)))
    cold = np.array((rng.uniform(0.82, 1.0), 0.97, rng.uniform(0.95, 1.18)))
    return Lights(
        lamps=np.array(room.lamps),
        lamp_color=rng.uniform(0.4, 1.3) * warm,
        sky_color=rng.uniform(0.5, 1.3) * cold,
        window_normal=np.array(room.window_normal),
        size=np.array(room.size, dtype=np.float64),
    )


def _exposure(rng: np.random.Generator) -> Exposure:
    """Draw what differs from view to view: within about one stop, and a tint."""
    gain = np.exp(rng.normal(0, 0.3) + rng.normal(0, 0.12, 3))
    headlight = float(rng.uniform(0, 0.8)) if rng.uniform() < 0.5 else 0.0
    curve = np.linspace(0, 1, 4097) ** (1 / rng.uniform(1.8, 2.6))
    return Exposure(gain, headlight, display=np.rint(255 * curve).astype(np.uint8))
