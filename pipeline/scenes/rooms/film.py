"""A procedural room and the cameras that film it: what is rendered when someone asks.

Letters: h w pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from vega3d.pipeline.scenes.rooms.casting import Solids, cast
from vega3d.pipeline.scenes.rooms.lamps import Lights
from vega3d.pipeline.scenes.rooms.layout import Room, furnished_room
from vega3d.pipeline.scenes.rooms.lighting import Exposure, shade
from vega3d.pipeline.scenes.rooms.solids import room_solids
from vega3d.pipeline.scenes.rooms.walks import walk

Cast = tuple[Float64[np.ndarray, "h w"], Int64[np.ndarray, "h w"], Int64[np.ndarray, "h w"]]

_CASTS_KEPT = 4
"""Views whose rays are remembered: a picture and its depth are asked for one after the other."""


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
        """Return the room as arrays; light falls on them where a view shows them."""
        return room_solids(self.room)

    def cast(self, index: int) -> Cast:
        """Return z-depth (0 where nothing is met), solid and face at every pixel's centre.

        To be read only: whoever asks for the view next gets the same arrays.
        """
        return self._remembered(index)

    @cached_property
    def _remembered(self) -> Callable[[int], Cast]:
        # Of what it needs and not of `self`, which would be held by what it holds.
        solids, poses, K, shape = self.solids, self.poses, self.K, (self.height, self.width)
        return lru_cache(maxsize=_CASTS_KEPT)(lambda index: _cast(solids, poses[index], K, shape))

    def depth_m(self, index: int) -> Float32[np.ndarray, "h w"]:
        """Return the exact z-depth of every pixel's centre."""
        return self.cast(index)[0].astype(np.float32)

    def rgb(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return the lit picture as the view's camera exposes it."""
        _, solid, face = self.cast(index)
        rgb = np.zeros((self.height, self.width, 3), np.uint8)
        pose, exposure = self.poses[index], self.exposures[index]
        shade(self.solids, self.lights, exposure, pose, self.K, solid, face, rgb)
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


def _cast(
    solids: Solids,
    pose: Float64[np.ndarray, "4 4"],
    K: Float64[np.ndarray, "3 3"],
    shape: tuple[int, int],
) -> Cast:
    depth_m, solid, face = np.zeros(shape), np.zeros(shape, int), np.zeros(shape, int)
    cast(solids, pose, K, depth_m, solid, face)
    for array in (depth_m, solid, face):
        array.flags.writeable = False
    return depth_m, solid, face
