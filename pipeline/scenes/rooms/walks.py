"""Walks through procedural rooms, as of someone who films while strolling and looking about.

A camera is an OpenCV camera (x right, y down, z forward) at world_from_camera; metres, radians.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from vega3d.pipeline.scenes.rooms.layout import Room

_CELL_M = 0.1
_STEPS_A_VIEW = 6
_CLEARANCE_M = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How someone films: one draw a walk."""

    height_m: float
    step_m: float
    """Way from view to view."""

    turn: float
    """Largest change of heading from view to view."""

    pitch: float
    pitch_sway: float
    roll_sway: float


def draw_style(rng: np.random.Generator) -> Style:
    """Return a way of filming: a child's to a tall person's eyes, looking up or down."""
    return Style(
        height_m=rng.uniform(0.7, 1.75),
        step_m=rng.uniform(0.12, 0.4),
        turn=np.radians(rng.uniform(14, 30)),
        pitch=np.radians(rng.uniform(-38, 14)),
        pitch_sway=np.radians(rng.uniform(2, 10)),
        roll_sway=np.radians(rng.uniform(0.5, 6)),
    )


def walk(room: Room, num_views: int, rng: np.random.Generator) -> list[Float64[np.ndarray, "4 4"]]:
    """Return a camera a view; a longer walk from the same generator begins as a shorter one."""
    style = draw_style(rng)
    grid = _FreeSpace(room, style.height_m)
    spot, heading = grid.start(rng)
    course, gaze = heading, heading
    glance, nod, roll, bob = (rng.normal() for _ in range(4))
    side = float(rng.choice((-1.0, 1.0)))
    poses = []
    for _ in range(num_views):
        pitch = np.clip(style.pitch + style.pitch_sway * nod, np.radians(-55), np.radians(30))
        z = style.height_m + 0.04 * bob
        poses.append(_pose((*spot, z), gaze, float(pitch), style.roll_sway * roll))
        for _ in range(_STEPS_A_VIEW):
            spot, course, side = grid.step(spot, course, side, style.step_m / _STEPS_A_VIEW, rng)
        glance, nod, roll, bob = (
            0.8 * value + 0.6 * rng.normal() for value in (glance, nod, roll, bob)
        )
        wanted = grid.open_direction(spot, course + 0.9 * glance)
        change = (wanted - gaze + np.pi) % (2 * np.pi) - np.pi
        gaze += float(np.clip(change, -style.turn, style.turn))
    return poses


def _pose(
    eye: tuple[float, float, float], heading: float, pitch: float, roll: float
) -> Float64[np.ndarray, "4 4"]:
    forward = np.array(
        [np.cos(pitch) * np.cos(heading), np.cos(pitch) * np.sin(heading), np.sin(pitch)]
    )
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    pose = np.eye(4)
    pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
    pose[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
    pose[:3, 2], pose[:3, 3] = forward, eye
    return pose


class _FreeSpace:
    """Where a camera at some height keeps clear of everything."""

    def __init__(self, room: Room, height_m: float) -> None:
        self._origin = -np.array(room.size[:2]) / 2
        shape = np.ceil(np.array(room.size[:2]) / _CELL_M).astype(int)
        cells = np.indices((int(shape[0]), int(shape[1]))) + 0.5
        x, y = cells * _CELL_M + self._origin[:, None, None]
        floor = np.zeros(shape, dtype=bool)
        doors = [room.doorway] if room.doorway else []
        for x0, x1, y0, y1 in [*room.areas, *doors]:
            floor |= (x > x0) & (x < x1) & (y > y0) & (y < y1)
        self._open = floor & ~_solid(room, height_m, x, y, 0.02)
        away = _CLEARANCE_M
        inner = (np.abs(x) < room.size[0] / 2 - away) & (np.abs(y) < room.size[1] / 2 - away)
        self._free = floor & inner & ~_solid(room, height_m, x, y, away)

    def start(self, rng: np.random.Generator) -> tuple[tuple[float, float], float]:
        """Return a free place and a heading that leads somewhere."""
        cells = np.argwhere(self._free)
        if not len(cells):  # so full that nobody could stand in it: film from above the middle
            return (0.0, 0.0), float(rng.uniform(0, 2 * np.pi))
        best: tuple[float, tuple[float, float], float] = (-1.0, (0.0, 0.0), 0.0)
        for _ in range(6):
            x, y = (cells[rng.integers(len(cells))] + 0.5) * _CELL_M + self._origin
            heading = float(rng.uniform(0, 2 * np.pi))
            way = self._way((float(x), float(y)), heading, self._free)
            best = max(best, (way, (float(x), float(y)), heading))
        return best[1], best[2]

    def step(
        self,
        spot: tuple[float, float],
        course: float,
        side: float,
        length: float,
        rng: np.random.Generator,
    ) -> tuple[tuple[float, float], float, float]:
        """Walk on; where something is near, turn to one side, or the other if that is no better."""
        course += 0.08 * rng.normal()
        if rng.uniform() < 0.02:
            side = -side
        if self._way(spot, course, self._free) < 0.5:
            course += 0.22 * side
        ahead = (spot[0] + length * np.cos(course), spot[1] + length * np.sin(course))
        return (ahead, course, side) if self._is(ahead, self._free) else (spot, course, side)

    def open_direction(self, spot: tuple[float, float], wanted: float) -> float:
        """Return the heading near the wanted one that has most to see."""
        turns = np.radians((0, 20, -20, 40, -40, 65, -65))
        views = [min(self._way(spot, wanted + turn, self._open), 2.5) for turn in turns]
        scores = [view - 0.6 * abs(turn) for view, turn in zip(views, turns, strict=True)]
        return wanted + float(turns[int(np.argmax(scores))])

    def _is(self, spot: tuple[float, float], grid: Bool[np.ndarray, "nx ny"]) -> bool:
        i, j = ((np.array(spot) - self._origin) // _CELL_M).astype(int)
        return bool(0 <= i < grid.shape[0] and 0 <= j < grid.shape[1] and grid[i, j])

    def _way(
        self, spot: tuple[float, float], heading: float, grid: Bool[np.ndarray, "nx ny"]
    ) -> float:
        """Return how far one sees or walks in a direction, at most 3 m."""
        reach = np.arange(1, 31) * _CELL_M
        at = np.array(spot) + reach[:, None] * [np.cos(heading), np.sin(heading)]
        i, j = ((at - self._origin) // _CELL_M).astype(int).T
        inside = (i >= 0) & (i < grid.shape[0]) & (j >= 0) & (j < grid.shape[1])
        clear = inside & grid[np.where(inside, i, 0), np.where(inside, j, 0)]
        return float(reach[-1] if clear.all() else reach[int(np.argmin(clear))] - _CELL_M)


def _solid(
    room: Room,
    height_m: float,
    x: Float64[np.ndarray, "nx ny"],
    y: Float64[np.ndarray, "nx ny"],
    margin: float,
) -> Bool[np.ndarray, "nx ny"]:
    """Mark the cells within a margin of what reaches up to the camera's height."""
    taken = np.zeros(x.shape, dtype=bool)
    for thing in room.things:
        for part in thing.parts:
            if abs(part.center[2] - height_m) > part.size[2] / 2 + margin + 0.05:
                continue
            c, s = np.cos(part.yaw), np.sin(part.yaw)
            dx, dy = x - part.center[0], y - part.center[1]
            along, across = np.abs(c * dx + s * dy), np.abs(c * dy - s * dx)
            half = part.size[0] / 2 + margin, part.size[1] / 2 + margin
            taken |= (along < half[0]) & (across < half[1])
    return taken
