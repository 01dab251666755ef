"""Floor plans of procedural rooms, and where the furniture goes.

World: z up, the floor at 0, the outer box's middle at x = y = 0; metres. A plan is a box with inner
walls: nothing (a room), a corner filled (L-shaped), long and narrow (a corridor), or a wall with a
doorway (two rooms).
"""

from dataclasses import dataclass, field, replace

import numpy as np

from vega3d.pipeline.scenes.rooms import furniture
from vega3d.pipeline.scenes.rooms.furniture import Part, box, extents, moved
from vega3d.pipeline.scenes.rooms.materials import (
    Material,
    Vector,
    plain,
    tiles,
    wall_materials,
    wood,
)

LAMP_DROP_M = 0.55
PLANS = ("room", "l-shaped", "corridor", "two rooms")
_PLAN_SHARE = (0.45, 0.2, 0.15, 0.2)
_WALL_M = 0.1
Rectangle = tuple[float, float, float, float]
"""Smallest and largest x, smallest and largest y."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One object, or a piece of the room itself."""

    label: str
    parts: tuple[Part, ...]
    is_shell: bool = False
    """Wall, floor and the like: part of the room, not an object in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """A furnished room."""

    plan: str
    """One of PLANS."""

    size: Vector
    """Extents of the outer box."""

    things: tuple[Thing, ...]
    lamps: tuple[Vector, ...]
    """Where the ceiling lamps hang."""

    window_normal: tuple[float, float]
    """Into the room, from the wall that has the window."""

    areas: tuple[Rectangle, ...]
    """Rectangles of floor, which touch or are joined by `doorway`."""

    doorway: Rectangle | None


@dataclass(frozen=True, slots=True)
class _Wall:
    """A stretch of wall: its middle, the direction into the room, its length."""

    x: float
    y: float
    yaw: float
    length: float


@dataclass(slots=True)
class _Floor:
    """What is taken on the floor so far."""

    taken: list[Rectangle] = field(default_factory=list)

    def take(self, parts: list[Part], margin: float) -> bool:
        """Take a thing's place; False where something is in the way."""
        x0, x1, y0, y1 = extents(parts)
        for a0, a1, b0, b1 in self.taken:
            if x0 < a1 + margin and a0 < x1 + margin and y0 < b1 + margin and b0 < y1 + margin:
                return False
        self.taken.append((x0, x1, y0, y1))
        return True


def furnished_room(rng: np.random.Generator) -> Room:
    """Return a room: its plan, things along its walls, clutter, lamps."""
    plan = PLANS[int(rng.choice(len(PLANS), p=_PLAN_SHARE))]
    size = _extents(rng, plan)
    main, feature = wall_materials(rng)
    things, walls, areas, doorway = _shell(rng, plan, size, main, feature)
    floor = _Floor([doorway] if doorway else [])
    things += _on_walls(rng, walls, floor)
    things += _along_walls(rng, walls, floor, areas)
    things += _standing(rng, areas, floor)
    lamps, hanging = _lamps(rng, size[2], areas, plan)
    light_from = walls[0].yaw + np.pi / 2
    return Room(
        plan=plan,
        size=size,
        things=tuple(things + hanging),
        lamps=lamps,
        window_normal=(float(np.cos(light_from)), float(np.sin(light_from))),
        areas=tuple(areas),
        doorway=doorway,
    )


def _extents(rng: np.random.Generator, plan: str) -> Vector:
    height = rng.uniform(2.3, 3.2)
    if plan == "corridor":
        return rng.uniform(6.0, 10.0), rng.uniform(1.9, 2.6), height
    if plan == "two rooms":
        return rng.uniform(7.0, 9.5), rng.uniform(3.4, 5.0), height
    if plan == "l-shaped":
        return rng.uniform(5.5, 8.0), rng.uniform(5.0, 7.0), height
    return rng.uniform(3.6, 7.5), rng.uniform(3.2, 6.2), height


def _shell(
    rng: np.random.Generator, plan: str, size: Vector, main: Material, feature: Material
) -> tuple[list[Thing], list[_Wall], list[Rectangle], Rectangle | None]:
    w, d, h = size
    t = _WALL_M
    ground = wood(rng) if rng.uniform() < 0.5 else tiles(rng)
    white = plain((0.8, 0.8, 0.78), rng, gloss=0.0)
    things = [
        _fixed("floor", [box((w + 2 * t, d + 2 * t, t), (0, 0, -t / 2), ground)]),
        _fixed("ceiling", [box((w + 2 * t, d + 2 * t, t), (0, 0, h + t / 2), white)]),
    ]
    walls = [
        _Wall(0.0, -d / 2, 0.0, w),
        _Wall(w / 2, 0.0, np.pi / 2, d),
        _Wall(0.0, d / 2, np.pi, w),
        _Wall(-w / 2, 0.0, -np.pi / 2, d),
    ]
    for index, wall in enumerate(walls):
        cover = feature if index == 1 else main
        slab = box((wall.length + 2 * t, t, h), (0, -t / 2, h / 2), cover)
        things.append(_fixed("wall", moved([slab], wall.x, wall.y, wall.yaw)))
    areas: list[Rectangle] = [(-w / 2, w / 2, -d / 2, d / 2)]
    doorway = None
    if plan == "l-shaped":
        inner, areas = _filled_corner(rng, size, feature)
        walls = _shortened(walls, inner)
        things.append(_fixed("wall", [inner]))
    if plan == "two rooms":
        parts, areas, doorway, more = _dividing_wall(rng, size, feature)
        things.append(_fixed("wall", parts))
        walls = _split(walls, doorway) + more
    skirting = plain((0.75, 0.74, 0.70), rng)
    for wall in walls:
        board = box((wall.length, 0.02, 0.1), (0, 0.01, 0.05), skirting)
        things.append(_fixed("skirting", moved([board], wall.x, wall.y, wall.yaw)))
    order = [int(i) for i in rng.permutation(len(walls))]
    return things, [walls[i] for i in order], areas, doorway


def _fixed(label: str, parts: list[Part]) -> Thing:
    # The outer shell encloses the light; inner walls do stand in it.
    still = [replace(part, casts_shadow=label == "wall" and part.size[2] > 0.5) for part in parts]
    return Thing(label=label, parts=tuple(still), is_shell=True)


def _filled_corner(
    rng: np.random.Generator, size: Vector, cover: Material
) -> tuple[Part, list[Rectangle]]:
    """Return the block in the corner at +x +y, and the two rectangles of floor that it leaves."""
    w, d, h = size
    bw, bd = w * rng.uniform(0.35, 0.55), d * rng.uniform(0.35, 0.55)
    block = box((bw, bd, h), (w / 2 - bw / 2, d / 2 - bd / 2, h / 2), cover)
    low: Rectangle = (-w / 2, w / 2, -d / 2, d / 2 - bd)
    high: Rectangle = (-w / 2, w / 2 - bw, d / 2 - bd, d / 2)
    return block, [low, high]


def _shortened(walls: list[_Wall], block: Part) -> list[_Wall]:
    """Return the walls of an L: two cut by the block, and the block's two open faces."""
    south, east, north, west = walls
    bw, bd, (bx, by) = block.size[0], block.size[1], block.center[:2]
    return [
        south,
        _Wall(east.x, east.y - bd / 2, east.yaw, east.length - bd),
        _Wall(north.x - bw / 2, north.y, north.yaw, north.length - bw),
        west,
        _Wall(bx, by - bd / 2, np.pi, bw),
        _Wall(bx - bw / 2, by, np.pi / 2, bd),
    ]


def _dividing_wall(
    rng: np.random.Generator, size: Vector, cover: Material
) -> tuple[list[Part], list[Rectangle], Rectangle, list[_Wall]]:
    """Return a wall across x with a doorway, both rooms, what must stay free, and its stretches."""
    w, d, h = size
    x, gap, t = w * rng.uniform(-0.12, 0.12), rng.uniform(0.85, 1.3), 0.12
    y = rng.uniform(-d / 2 + 0.9, d / 2 - 0.9)
    low, high = y - gap / 2, y + gap / 2
    parts = [
        box((t, low + d / 2, h), (x, (low - d / 2) / 2, h / 2), cover),
        box((t, d / 2 - high, h), (x, (high + d / 2) / 2, h / 2), cover),
        box((t, gap, h - 2.05), (x, y, (h + 2.05) / 2), cover),
    ]
    rooms: list[Rectangle] = [(-w / 2, x - t / 2, -d / 2, d / 2), (x + t / 2, w / 2, -d / 2, d / 2)]
    walls = [
        _Wall(x + side * t / 2, (a + b) / 2, -side * np.pi / 2, b - a)
        for side in (-1, 1)
        for a, b in ((-d / 2, low), (high, d / 2))
        if b - a > 0.6
    ]
    return parts, rooms, (x - 0.8, x + 0.8, low - 0.1, high + 0.1), walls


def _split(walls: list[_Wall], doorway: Rectangle) -> list[_Wall]:
    """Cut the two walls that the dividing wall meets."""
    x = (doorway[0] + doorway[1]) / 2
    south, east, north, west = walls
    cut = [east, west]
    for wall in (south, north):
        for a, b in ((-wall.length / 2, x - 0.1), (x + 0.1, wall.length / 2)):
            cut.append(_Wall((a + b) / 2, wall.y, wall.yaw, b - a))
    return cut


def _on_walls(rng: np.random.Generator, walls: list[_Wall], floor: _Floor) -> list[Thing]:
    """Return windows, doors and pictures; a door's place on the floor stays free."""
    things = []
    for index, wall in enumerate(walls):
        if wall.length < 1.2:
            continue
        free = wall.length / 2 - 0.6
        spots = rng.permutation([-free, 0.0, free] if free > 0.9 else [0.0])
        kinds = ["window" if index == 0 or rng.uniform() < 0.25 else "picture"]
        kinds += ["door"] if index == 1 else []
        kinds += ["picture"] if rng.uniform() < 0.6 else []
        builders = {"window": furniture.window, "door": furniture.door}
        for kind, spot in zip(kinds, spots, strict=False):
            parts = builders.get(kind, furniture.picture)(rng)
            parts = _against(parts, wall, float(spot))
            things.append(Thing(label=kind, parts=tuple(parts)))
            if kind == "door":
                front = box((0.9, 1.0, 1.0), (0, 0.5, 0.5), parts[0].material)
                floor.take(_against([front], wall, float(spot)), 0.0)
    return things


def _against(parts: list[Part], wall: _Wall, along: float) -> list[Part]:
    """Put a thing (x along its wall, y away from it) at a wall."""
    return moved(moved(parts, along, 0.0, 0.0), wall.x, wall.y, wall.yaw)


def _inside(parts: list[Part], areas: list[Rectangle]) -> bool:
    x0, x1, y0, y1 = extents(parts)
    e = 1e-6
    return any(
        a0 - e <= x0 and x1 <= a1 + e and b0 - e <= y0 and y1 <= b1 + e for a0, a1, b0, b1 in areas
    )


def _along_walls(
    rng: np.random.Generator, walls: list[_Wall], floor: _Floor, areas: list[Rectangle]
) -> list[Thing]:
    things = []
    narrow = min(min(a1 - a0, b1 - b0) for a0, a1, b0, b1 in areas) < 2.7
    for wall in walls:
        at = -wall.length / 2 + rng.uniform(0.0, 0.8)
        while at < wall.length / 2 - 0.5:
            label = str(rng.choice(["bookshelf", "sideboard", "plant"] if narrow else _KINDS))
            parts = furniture.ALONG_WALLS[label](rng)
            x0, x1, _, _ = extents(parts)
            at += rng.exponential(0.45)
            placed = _against(parts, wall, at - x0)
            if at + x1 - x0 > wall.length / 2:
                break
            if _inside(placed, areas) and floor.take(placed, 0.05):
                things.append(Thing(label=label, parts=tuple(placed)))
            at += x1 - x0
    return things


_KINDS = tuple(furniture.ALONG_WALLS)


def _standing(rng: np.random.Generator, areas: list[Rectangle], floor: _Floor) -> list[Thing]:
    """Return rugs, tables and clutter, wherever there is floor."""
    things = []
    for x0, x1, y0, y1 in areas:
        x, y = (x0 + x1) / 2 + rng.uniform(-0.4, 0.4), (y0 + y1) / 2 + rng.uniform(-0.4, 0.4)
        lying = moved(furniture.rug(rng), x, y, rng.uniform(0, np.pi))
        if rng.uniform() < 0.7 and _inside(lying, areas):
            things.append(Thing(label="rug", parts=tuple(lying)))
        for _ in range(int(rng.poisson(min(0.28 * (x1 - x0) * (y1 - y0), 8)))):
            label = str(rng.choice(list(furniture.STANDING_FREE)))
            at = rng.uniform((x0 + 0.3, y0 + 0.3), (x1 - 0.3, y1 - 0.3))
            parts = furniture.STANDING_FREE[label](rng)
            parts = moved(parts, float(at[0]), float(at[1]), rng.uniform(0, 2 * np.pi))
            if _inside(parts, areas) and floor.take(parts, 0.25):
                things.append(Thing(label=label, parts=tuple(parts)))
    return things


def _lamps(
    rng: np.random.Generator, height: float, areas: list[Rectangle], plan: str
) -> tuple[tuple[Vector, ...], list[Thing]]:
    lamps, things = [], []
    for x0, x1, y0, y1 in areas if plan == "two rooms" else areas[:1]:
        x = (x0 + x1) / 2 + rng.uniform(-0.15, 0.15) * (x1 - x0)
        y = (y0 + y1) / 2 + rng.uniform(-0.15, 0.15) * (y1 - y0)
        parts = moved(furniture.ceiling_lamp(height, LAMP_DROP_M, rng), x, y, 0.0)
        things.append(Thing(label="lamp", parts=tuple(parts)))
        lamps.append((x, y, height - LAMP_DROP_M))
    return tuple(lamps), things
