"""What stands in a procedural room: things made of boxes, cylinders and spheres.

A builder draws a thing with its back to a wall at y = 0: x along the wall, y away from it, z up,
the floor at 0; metres. Everything comes from one random generator, so a seed gives a room.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vega3d.pipeline.scenes.rooms.materials import (
    Material,
    Vector,
    any_material,
    draw_color,
    draw_seed,
    fabric,
    plain,
    wood,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One solid; a cylinder's axis is z; the first size of round ones is the diameter."""

    shape: str
    size: Vector
    center: Vector
    material: Material
    yaw: float = 0.0
    casts_shadow: bool = True


Builder = Callable[[np.random.Generator], list[Part]]


def box(size: Vector, center: Vector, material: Material, yaw: float = 0.0) -> Part:
    """Return a cuboid."""
    return Part(shape="box", size=size, center=center, material=material, yaw=yaw)


def round_part(shape: str, width: float, height: float, center: Vector, material: Material) -> Part:
    """Return a cylinder or a sphere."""
    return Part(shape=shape, size=(width, width, height), center=center, material=material)


def moved(parts: list[Part], x: float, y: float, yaw: float) -> list[Part]:
    """Turn a thing about the origin, and move it."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    placed = []
    for part in parts:
        a, b, z = part.center
        center = (float(x + cos * a - sin * b), float(y + sin * a + cos * b), z)
        placed.append(replace(part, center=center, yaw=float(part.yaw + yaw)))
    return placed


def extents(parts: list[Part]) -> tuple[float, float, float, float]:
    """Return the smallest and largest x and y of a thing, m."""
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for part in parts:
        cos, sin = abs(np.cos(part.yaw)), abs(np.sin(part.yaw))
        half = np.array(part.size[:2]) / 2
        reach = np.array([cos * half[0] + sin * half[1], sin * half[0] + cos * half[1]])
        low, high = (
            np.minimum(low, part.center[:2] - reach),
            np.maximum(high, part.center[:2] + reach),
        )
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def _legs(width: float, depth: float, height: float, y: float, material: Material) -> list[Part]:
    return [
        box((0.06, 0.06, height), (x, y + dy, height / 2), material)
        for x in (0.05 - width / 2, width / 2 - 0.05)
        for dy in (0.05 - depth / 2, depth / 2 - 0.05)
    ]  # fmt: skip


def _sofa(rng: np.random.Generator) -> list[Part]:
    cloth, width = fabric(rng), rng.uniform(1.7, 2.0)
    pillow = fabric(rng)
    return [
        box((width, 0.8, 0.4), (0, 0.45, 0.22), cloth),
        box((width, 0.22, 0.5), (0, 0.14, 0.6), cloth),
        box((0.2, 0.8, 0.6), (-width / 2 + 0.1, 0.45, 0.32), cloth),
        box((0.2, 0.8, 0.6), (width / 2 - 0.1, 0.45, 0.32), cloth),
        box((0.4, 0.14, 0.36), (-width / 4, 0.36, 0.6), pillow, 0.2),
        box(
            (0.4, 0.14, 0.36), (width / 4, 0.36, 0.6), replace(pillow, base=draw_color(rng)), -0.15
        ),
    ]


def _bookshelf(rng: np.random.Generator) -> list[Part]:
    width, boards = rng.uniform(1.0, 1.5), wood(rng)
    shelves = int(rng.integers(4, 6))
    height = 0.33 * shelves
    books = Material(pattern="books", base=boards.base, scale_m=0.05, seed=draw_seed(rng))
    return [
        box((width, 0.3, height), (0, 0.16, height / 2 + 0.06), books),
        box((0.04, 0.36, height + 0.12), (-width / 2 - 0.02, 0.18, height / 2 + 0.06), boards),
        box((0.04, 0.36, height + 0.12), (width / 2 + 0.02, 0.18, height / 2 + 0.06), boards),
        box((width + 0.08, 0.36, 0.04), (0, 0.18, height + 0.1), boards),
        round_part("sphere", 0.22, 0.22, (0.2, 0.18, height + 0.23), plain(draw_color(rng), rng)),
    ]


def _bed(rng: np.random.Generator) -> list[Part]:
    boards, blanket = wood(rng), fabric(rng)
    white = plain((0.78, 0.77, 0.74), rng)
    return [
        box((2.0, 1.1, 0.28), (0, 0.58, 0.16), boards),
        box((0.08, 1.1, 0.8), (-1.0, 0.58, 0.4), boards),
        box((1.9, 1.04, 0.2), (0.04, 0.58, 0.4), white),
        box((1.3, 1.12, 0.08), (0.34, 0.58, 0.5), blanket),
        box((0.36, 0.6, 0.14), (-0.7, 0.58, 0.56), white, 0.1),
    ]


def _desk(rng: np.random.Generator) -> list[Part]:
    boards, metal, seat = wood(rng), plain((0.12, 0.12, 0.13), rng), fabric(rng)
    screen = Material(
        pattern="painting",
        base=draw_color(rng),
        accent=draw_color(rng),
        seed=draw_seed(rng),
        is_emissive=True,
    )
    return [
        box((1.3, 0.65, 0.04), (0, 0.36, 0.74), boards),
        *_legs(1.3, 0.65, 0.72, 0.36, metal),
        box((0.62, 0.03, 0.36), (0, 0.22, 1.0), screen),
        box((0.2, 0.16, 0.02), (0, 0.22, 0.77), metal),
        box((0.05, 0.03, 0.1), (0, 0.22, 0.8), metal),
        box((0.4, 0.14, 0.02), (0, 0.5, 0.77), metal),
        round_part("cylinder", 0.09, 0.12, (0.5, 0.42, 0.82), plain(draw_color(rng), rng)),
        box((0.45, 0.45, 0.07), (0.05, 0.82, 0.46), seat, 0.3),
        box((0.45, 0.06, 0.5), (-0.02, 1.04, 0.76), seat, 0.3),
        round_part("cylinder", 0.06, 0.42, (0.05, 0.82, 0.22), metal),
        round_part("cylinder", 0.46, 0.04, (0.05, 0.82, 0.03), metal),
    ]  # fmt: skip


def _wardrobe(rng: np.random.Generator) -> list[Part]:
    color = wood(rng).base if rng.uniform() < 0.5 else draw_color(rng, 0.3, 0.6, 0.3)
    door = Material(pattern="door", base=color, seed=draw_seed(rng))
    return [
        box((0.58, 0.55, 1.95), (-0.3, 0.28, 1.0), door),
        box((0.58, 0.55, 1.95), (0.3, 0.28, 1.0), door),
        box((1.24, 0.6, 0.05), (0, 0.3, 2.0), plain(color, rng)),
        box((0.5, 0.4, 0.25), (0.2, 0.3, 2.15), plain((0.5, 0.36, 0.2), rng), 0.15),
    ]


def _sideboard(rng: np.random.Generator) -> list[Part]:
    boards, vase = wood(rng), plain(draw_color(rng), rng)
    door = Material(pattern="door", base=boards.base, seed=draw_seed(rng))
    leaves = Material(pattern="leaves", base=draw_color(rng, 0.4, 0.6), accent=(0.1, 0.3, 0.08))
    return [
        box((0.7, 0.42, 0.6), (-0.36, 0.22, 0.4), door),
        box((0.7, 0.42, 0.6), (0.36, 0.22, 0.4), door),
        box((1.5, 0.46, 0.04), (0, 0.23, 0.72), boards),
        round_part("cylinder", 0.14, 0.3, (-0.45, 0.24, 0.89), vase),
        round_part("sphere", 0.3, 0.3, (-0.45, 0.24, 1.14), leaves),
        box((0.3, 0.2, 0.05), (0.35, 0.24, 0.765), plain(draw_color(rng), rng), 0.3),
        box((0.26, 0.18, 0.04), (0.35, 0.24, 0.81), plain(draw_color(rng), rng), 0.1),
    ]


def _plant(rng: np.random.Generator) -> list[Part]:
    pot = plain((0.55, 0.27, 0.15), rng)
    leaves = Material(
        pattern="leaves", base=(0.08, 0.25, 0.06), accent=(0.35, 0.55, 0.15), seed=draw_seed(rng)
    )
    balls = [
        round_part(
            "sphere", d, d, (rng.uniform(-0.18, 0.18), 0.4 + rng.uniform(-0.15, 0.15), z), leaves
        )
        for z, d in ((0.75, 0.42), (0.95, 0.46), (1.15, 0.4), (1.35, 0.3))
    ]
    trunk = round_part("cylinder", 0.05, 0.6, (0, 0.4, 0.6), plain((0.2, 0.12, 0.06), rng))
    return [round_part("cylinder", 0.38, 0.36, (0, 0.4, 0.18), pot), trunk, *balls]


def _armchair(rng: np.random.Generator) -> list[Part]:
    cloth = fabric(rng)
    return [
        box((0.75, 0.7, 0.4), (0, 0.5, 0.22), cloth),
        box((0.75, 0.16, 0.6), (0, 0.16, 0.65), cloth),
        box((0.15, 0.7, 0.58), (-0.38, 0.5, 0.3), cloth),
        box((0.15, 0.7, 0.58), (0.38, 0.5, 0.3), cloth),
    ]


def _table(rng: np.random.Generator) -> list[Part]:
    """Return a table with a bowl of fruit, its middle at the origin."""
    board, top = wood(rng), rng.uniform(0.4, 0.75)
    if rng.uniform() < 0.5:
        parts = [
            round_part("cylinder", rng.uniform(0.7, 1.2), 0.05, (0, 0, top), board),
            round_part("cylinder", 0.12, top, (0, 0, top / 2), board),
        ]
    else:
        width, depth = rng.uniform(0.9, 1.5), rng.uniform(0.6, 0.85)
        parts = [
            box((width, depth, 0.05), (0, 0, top), board),
            *_legs(width - 0.1, depth - 0.1, top, 0.0, board),
        ]
    for angle in (0.3, 2.1, 4.4):
        fruit = plain(draw_color(rng, 0.4, 0.6), rng, gloss=0.5)
        at = (0.1 * np.cos(angle), 0.1 * np.sin(angle), top + 0.07)
        parts.append(round_part("sphere", 0.09, 0.09, at, fruit))
    bowl = plain(draw_color(rng), rng, gloss=0.6)
    return [*parts, round_part("cylinder", 0.3, 0.03, (0, 0, top + 0.04), bowl)]


def rug(rng: np.random.Generator) -> list[Part]:
    """Return a rug about the origin."""
    weave = Material(
        pattern="rug",
        base=draw_color(rng, 0.15, 0.5),
        accent=draw_color(rng, 0.1, 0.4),
        seed=draw_seed(rng),
    )
    size = (rng.uniform(1.2, 2.4), rng.uniform(0.9, 1.7), 0.012)
    return [replace(box(size, (0, 0, 0.006), weave), casts_shadow=False)]


def _chair(rng: np.random.Generator) -> list[Part]:
    frame, seat = wood(rng), any_material(rng)
    return [
        box((0.44, 0.44, 0.05), (0, 0, 0.45), seat),
        *_legs(0.44, 0.44, 0.43, 0.0, frame),
        box((0.44, 0.05, 0.5), (0, 0.2, 0.72), frame),
    ]


def _crates(rng: np.random.Generator) -> list[Part]:
    parts, z = [], 0.0
    for _ in range(int(rng.integers(1, 4))):
        size = rng.uniform(0.2, 0.6, 3)
        at = (rng.uniform(-0.08, 0.08), rng.uniform(-0.08, 0.08), z + size[2] / 2)
        edges = (float(size[0]), float(size[1]), float(size[2]))
        parts.append(box(edges, at, any_material(rng), rng.uniform(-0.5, 0.5)))
        z += float(size[2])
    return parts


def _barrel(rng: np.random.Generator) -> list[Part]:
    width, height = rng.uniform(0.2, 0.5), rng.uniform(0.3, 1.1)
    return [round_part("cylinder", width, height, (0, 0, height / 2), any_material(rng))]


def _ball(rng: np.random.Generator) -> list[Part]:
    d = rng.uniform(0.2, 0.6)
    return [round_part("sphere", d, d, (0, 0, d / 2), any_material(rng))]


def _floor_lamp(rng: np.random.Generator) -> list[Part]:
    height, metal = rng.uniform(1.2, 1.7), plain((0.3, 0.3, 0.32), rng, gloss=0.8)
    shade = Material(pattern="plain", base=draw_color(rng, 0.5, 0.8, 0.3), is_emissive=True)
    return [
        round_part("cylinder", 0.3, 0.03, (0, 0, 0.015), metal),
        round_part("cylinder", 0.03, height, (0, 0, height / 2), metal),
        round_part("cylinder", 0.36, 0.3, (0, 0, height), shade),
    ]


def _centred(builder: Builder, depth: float) -> Builder:
    """Return a builder that stands a thing made for a wall about the origin."""
    return lambda rng: moved(builder(rng), 0.0, -depth, 0.0)


def window(rng: np.random.Generator) -> list[Part]:
    """Return a window, on a wall."""
    sky = Material(pattern="window", base=(1, 1, 1), seed=draw_seed(rng), is_emissive=True)
    return [box((rng.uniform(0.9, 1.8), 0.06, rng.uniform(0.9, 1.3)), (0, 0, 1.65), sky)]


def picture(rng: np.random.Generator) -> list[Part]:
    """Return a picture, on a wall."""
    art = Material(
        pattern="painting", base=draw_color(rng), accent=draw_color(rng), seed=draw_seed(rng)
    )
    size = (rng.uniform(0.4, 1.0), 0.05, rng.uniform(0.4, 0.8))
    return [box(size, (0, 0.02, rng.uniform(1.45, 1.85)), art)]


def door(rng: np.random.Generator) -> list[Part]:
    """Return a closed door, in a wall."""
    leaf = Material(pattern="door", base=draw_color(rng, 0.4, 0.7, 0.3), seed=draw_seed(rng))
    return [box((0.85, 0.05, 2.0), (0, 0.02, 1.0), leaf)]


def ceiling_lamp(height: float, drop: float, rng: np.random.Generator) -> list[Part]:
    """Return a lamp that hangs down by `drop`."""
    glow = Material(pattern="plain", base=(1.0, 0.93, 0.75), is_emissive=True)
    cord = plain((0.1, 0.1, 0.1), rng, gloss=0.0)
    lamp = [
        round_part("sphere", 0.3, 0.3, (0, 0, height - drop), glow),
        round_part("cylinder", 0.02, drop, (0, 0, height - drop / 2), cord),
    ]
    return [replace(part, casts_shadow=False) for part in lamp]


ALONG_WALLS: dict[str, Builder] = {
    "sofa": _sofa,
    "bookshelf": _bookshelf,
    "bed": _bed,
    "desk": _desk,
    "wardrobe": _wardrobe,
    "sideboard": _sideboard,
    "plant": _plant,
    "armchair": _armchair,
}

STANDING_FREE: dict[str, Builder] = {
    "table": _table,
    "chair": _chair,
    "crate": _crates,
    "barrel": _barrel,
    "ball": _ball,
    "lamp": _floor_lamp,
    "armchair": _centred(_armchair, 0.45),
    "plant": _centred(_plant, 0.4),
}
