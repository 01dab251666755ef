"""What stands in a procedural room: boxes, cylinders and spheres with materials.

World: z up, the floor at 0, the room's middle at x = y = 0; metres. Everything comes from one
random generator, so a seed gives a room.
"""

from dataclasses import dataclass, replace

import numpy as np

from vega3d.pipeline.scenes.rooms.materials import Material, Vector

LAMP_DROP_M = 0.55
"""How far the ceiling lamp hangs down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One solid; a cylinder's axis is z; the first size of round ones is the diameter."""

    shape: str
    size: Vector
    center: Vector
    material: Material
    yaw: float = 0.0
    is_shell: bool = False
    """Part of the room itself, which casts no shadow."""


@dataclass(frozen=True, slots=True)
class Room:
    """A furnished room: extents along x, y and z, and all of its parts."""

    size: Vector
    parts: tuple[Part, ...]


def furnished_room(rng: np.random.Generator) -> Room:
    """Return a room with things along its walls, a table in the middle and a lamp."""
    size = (rng.uniform(5.0, 7.0), rng.uniform(4.6, 6.0), rng.uniform(2.5, 2.9))
    parts = _shell(rng, size)
    kinds = list(rng.permutation(len(_ALONG_WALLS)))
    for wall in range(4):
        length, distance = (size[0], size[1]) if wall % 2 == 0 else (size[1], size[0])
        items = [_ALONG_WALLS[kinds.pop()](rng) for _ in range(2 if wall < 3 else 1)]
        spans = [min(_width(item), length / 2 - 0.7) for item in items]
        start = -sum(spans) / 2 - 0.1
        for item, span in zip(items, spans, strict=True):
            parts += _against_wall(item, wall, start + span / 2, distance / 2)
            start += span + 0.2
        parts += _against_wall(_on_wall(rng, wall, length), wall, 0.0, distance / 2)
    parts += _middle(rng) + _lamp(rng, size[2])
    return Room(size, tuple(parts))


def _box(size: Vector, center: Vector, material: Material, yaw: float = 0.0) -> Part:
    return Part(shape="box", size=size, center=center, material=material, yaw=yaw)


def _round(shape: str, width: float, height: float, center: Vector, material: Material) -> Part:
    return Part(shape=shape, size=(width, width, height), center=center, material=material)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 16))


def _color(
    rng: np.random.Generator, low: float = 0.1, high: float = 0.7, strength: float = 0.45
) -> Vector:
    """Return a colour of any hue; strength 0 is grey, 1 is garish."""
    hue, light, strength = rng.uniform(), rng.uniform(low, high), strength * rng.uniform(0.6, 1.2)
    waves = np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3])))
    red, green, blue = np.clip(light * (1 + strength * waves), 0.02, 0.95).tolist()
    return red, green, blue


def _wood(rng: np.random.Generator) -> Material:
    woods = [
        ((0.55, 0.33, 0.16), (0.36, 0.19, 0.08)),
        ((0.30, 0.15, 0.07), (0.16, 0.07, 0.03)),
        ((0.68, 0.50, 0.30), (0.52, 0.34, 0.18)),
        ((0.45, 0.40, 0.36), (0.30, 0.26, 0.23)),
    ]
    base, accent = woods[int(rng.integers(len(woods)))]
    return Material(pattern="wood", base=base, accent=accent, scale_m=0.13, seed=_seed(rng))


def _plain(color: Vector, rng: np.random.Generator) -> Material:
    return Material(pattern="plain", base=color, seed=_seed(rng))


def _fabric(rng: np.random.Generator) -> Material:
    return Material(
        pattern="fabric", base=_color(rng), accent=_color(rng), scale_m=0.12, seed=_seed(rng)
    )


def _shell(rng: np.random.Generator, size: Vector) -> list[Part]:
    width, depth, height = size
    floors = [
        _wood(rng),
        Material(
            pattern="tiles",
            base=(0.62, 0.58, 0.52),
            accent=_color(rng, 0.2, 0.4, 0.2),
            scale_m=0.4,
            seed=_seed(rng),
        ),
    ]
    light = _color(rng, 0.5, 0.68, 0.2)
    shade = (0.8 * light[0], 0.8 * light[1], 0.8 * light[2])
    walls = [
        _plain(light, rng),
        Material(pattern="stripes", base=light, accent=shade,
                 scale_m=0.3, seed=_seed(rng)),
        Material(pattern="bricks", base=(0.50, 0.25, 0.17), accent=(0.36, 0.15, 0.10),
                 scale_m=0.26, seed=_seed(rng)),
    ]  # fmt: skip
    main, feature = walls[int(rng.integers(2))], walls[int(rng.integers(3))]
    t = 0.1
    shell = [
        _box((width + 2 * t, depth + 2 * t, t), (0, 0, -t / 2), floors[int(rng.integers(2))]),
        _box((width + 2 * t, depth + 2 * t, t), (0, 0, height + t / 2),
             _plain((0.8, 0.8, 0.78), rng)),
        _box((width, t, height), (0, -depth / 2 - t / 2, height / 2), main),
        _box((t, depth, height), (width / 2 + t / 2, 0, height / 2), feature),
        _box((width, t, height), (0, depth / 2 + t / 2, height / 2), main),
        _box((t, depth, height), (-width / 2 - t / 2, 0, height / 2), main),
    ]  # fmt: skip
    skirting = _plain((0.75, 0.74, 0.70), rng)
    shell += [
        _box((width, 0.02, 0.1), (0, side * (depth / 2 - 0.01), 0.05), skirting) for side in (-1, 1)
    ]
    shell += [
        _box((0.02, depth, 0.1), (side * (width / 2 - 0.01), 0, 0.05), skirting) for side in (-1, 1)
    ]
    return [replace(part, is_shell=True) for part in shell]


def _width(item: list[Part]) -> float:
    return 2 * max(abs(part.center[0]) + part.size[0] / 2 for part in item)


def _against_wall(item: list[Part], wall: int, along: float, distance: float) -> list[Part]:
    """Turn an item (x along its wall, y away from it, the wall at y = 0) and move it there."""
    yaw = wall * np.pi / 2
    cos, sin = round(np.cos(yaw)), round(np.sin(yaw))
    placed = []
    for part in item:
        x, y, z = part.center[0] + along, part.center[1] - distance, part.center[2]
        center = (cos * x - sin * y, sin * x + cos * y, z)
        placed.append(replace(part, center=center, yaw=part.yaw + yaw))
    return placed


def _legs(width: float, depth: float, height: float, y: float, material: Material) -> list[Part]:
    return [
        _box((0.06, 0.06, height), (x, y + dy, height / 2), material)
        for x in (0.05 - width / 2, width / 2 - 0.05)
        for dy in (0.05 - depth / 2, depth / 2 - 0.05)
    ]  # fmt: skip


def _sofa(rng: np.random.Generator) -> list[Part]:
    cloth, width = _fabric(rng), rng.uniform(1.7, 2.0)
    pillow = _fabric(rng)
    return [
        _box((width, 0.8, 0.4), (0, 0.45, 0.22), cloth),
        _box((width, 0.22, 0.5), (0, 0.14, 0.6), cloth),
        _box((0.2, 0.8, 0.6), (-width / 2 + 0.1, 0.45, 0.32), cloth),
        _box((0.2, 0.8, 0.6), (width / 2 - 0.1, 0.45, 0.32), cloth),
        _box((0.4, 0.14, 0.36), (-width / 4, 0.36, 0.6), pillow, 0.2),
        _box((0.4, 0.14, 0.36), (width / 4, 0.36, 0.6), replace(pillow, base=_color(rng)), -0.15),
    ]


def _bookshelf(rng: np.random.Generator) -> list[Part]:
    width, wood = rng.uniform(1.0, 1.5), _wood(rng)
    shelves = int(rng.integers(4, 6))
    height = 0.33 * shelves
    books = Material(pattern="books", base=wood.base, scale_m=0.05, seed=_seed(rng))
    return [
        _box((width, 0.3, height), (0, 0.16, height / 2 + 0.06), books),
        _box((0.04, 0.36, height + 0.12), (-width / 2 - 0.02, 0.18, height / 2 + 0.06), wood),
        _box((0.04, 0.36, height + 0.12), (width / 2 + 0.02, 0.18, height / 2 + 0.06), wood),
        _box((width + 0.08, 0.36, 0.04), (0, 0.18, height + 0.1), wood),
        _round("sphere", 0.22, 0.22, (0.2, 0.18, height + 0.23), _plain(_color(rng), rng)),
    ]


def _bed(rng: np.random.Generator) -> list[Part]:
    wood, blanket = _wood(rng), _fabric(rng)
    white = _plain((0.78, 0.77, 0.74), rng)
    return [
        _box((2.0, 1.1, 0.28), (0, 0.58, 0.16), wood),
        _box((0.08, 1.1, 0.8), (-1.0, 0.58, 0.4), wood),
        _box((1.9, 1.04, 0.2), (0.04, 0.58, 0.4), white),
        _box((1.3, 1.12, 0.08), (0.34, 0.58, 0.5), blanket),
        _box((0.36, 0.6, 0.14), (-0.7, 0.58, 0.56), white, 0.1),
    ]


def _desk(rng: np.random.Generator) -> list[Part]:
    wood, metal, seat = _wood(rng), _plain((0.12, 0.12, 0.13), rng), _fabric(rng)
    screen = Material(
        pattern="painting", base=_color(rng), accent=_color(rng), seed=_seed(rng), is_emissive=True
    )
    return [
        _box((1.3, 0.65, 0.04), (0, 0.36, 0.74), wood),
        *_legs(1.3, 0.65, 0.72, 0.36, metal),
        _box((0.62, 0.03, 0.36), (0, 0.22, 1.0), screen),
        _box((0.2, 0.16, 0.02), (0, 0.22, 0.77), metal),
        _box((0.05, 0.03, 0.1), (0, 0.22, 0.8), metal),
        _box((0.4, 0.14, 0.02), (0, 0.5, 0.77), metal),
        _round("cylinder", 0.09, 0.12, (0.5, 0.42, 0.82), _plain(_color(rng), rng)),
        _box((0.45, 0.45, 0.07), (0.05, 0.82, 0.46), seat, 0.3),
        _box((0.45, 0.06, 0.5), (-0.02, 1.04, 0.76), seat, 0.3),
        _round("cylinder", 0.06, 0.42, (0.05, 0.82, 0.22), metal),
        _round("cylinder", 0.46, 0.04, (0.05, 0.82, 0.03), metal),
    ]  # fmt: skip


def _wardrobe(rng: np.random.Generator) -> list[Part]:
    color = _wood(rng).base if rng.uniform() < 0.5 else _color(rng, 0.3, 0.6, 0.3)
    door = Material(pattern="door", base=color, seed=_seed(rng))
    return [
        _box((0.58, 0.55, 1.95), (-0.3, 0.28, 1.0), door),
        _box((0.58, 0.55, 1.95), (0.3, 0.28, 1.0), door),
        _box((1.24, 0.6, 0.05), (0, 0.3, 2.0), _plain(color, rng)),
        _box((0.5, 0.4, 0.25), (0.2, 0.3, 2.15), _plain((0.5, 0.36, 0.2), rng), 0.15),
    ]


def _sideboard(rng: np.random.Generator) -> list[Part]:
    wood, vase = _wood(rng), _plain(_color(rng), rng)
    door = Material(pattern="door", base=wood.base, seed=_seed(rng))
    leaves = Material(pattern="leaves", base=_color(rng, 0.4, 0.6), accent=(0.1, 0.3, 0.08))
    return [
        _box((0.7, 0.42, 0.6), (-0.36, 0.22, 0.4), door),
        _box((0.7, 0.42, 0.6), (0.36, 0.22, 0.4), door),
        _box((1.5, 0.46, 0.04), (0, 0.23, 0.72), wood),
        _round("cylinder", 0.14, 0.3, (-0.45, 0.24, 0.89), vase),
        _round("sphere", 0.3, 0.3, (-0.45, 0.24, 1.14), leaves),
        _box((0.3, 0.2, 0.05), (0.35, 0.24, 0.765), _plain(_color(rng), rng), 0.3),
        _box((0.26, 0.18, 0.04), (0.35, 0.24, 0.81), _plain(_color(rng), rng), 0.1),
    ]


def _plant(rng: np.random.Generator) -> list[Part]:
    pot = _plain((0.55, 0.27, 0.15), rng)
    leaves = Material(
        pattern="leaves", base=(0.08, 0.25, 0.06), accent=(0.35, 0.55, 0.15), seed=_seed(rng)
    )
    balls = [
        _round(
            "sphere", d, d, (rng.uniform(-0.18, 0.18), 0.4 + rng.uniform(-0.15, 0.15), z), leaves
        )
        for z, d in ((0.75, 0.42), (0.95, 0.46), (1.15, 0.4), (1.35, 0.3))
    ]
    trunk = _round("cylinder", 0.05, 0.6, (0, 0.4, 0.6), _plain((0.2, 0.12, 0.06), rng))
    return [_round("cylinder", 0.38, 0.36, (0, 0.4, 0.18), pot), trunk, *balls]  # fmt: skip


def _armchair(rng: np.random.Generator) -> list[Part]:
    cloth = _fabric(rng)
    return [
        _box((0.75, 0.7, 0.4), (0, 0.5, 0.22), cloth),
        _box((0.75, 0.16, 0.6), (0, 0.16, 0.65), cloth),
        _box((0.15, 0.7, 0.58), (-0.38, 0.5, 0.3), cloth),
        _box((0.15, 0.7, 0.58), (0.38, 0.5, 0.3), cloth),
    ]


_ALONG_WALLS = (_sofa, _bookshelf, _bed, _desk, _wardrobe, _sideboard, _plant, _armchair)


def _on_wall(rng: np.random.Generator, wall: int, length: float) -> list[Part]:
    """Return a window, a door at the wall's end, or pictures."""
    if wall == 0:
        sky = Material(pattern="window", base=(1, 1, 1), seed=_seed(rng), is_emissive=True)
        return [_box((rng.uniform(1.3, 1.8), 0.06, 1.1), (rng.uniform(-0.5, 0.5), 0.0, 1.65), sky)]
    pictures = []
    for side in (-1, 1):
        art = Material(pattern="painting", base=_color(rng), accent=_color(rng), seed=_seed(rng))
        size = (rng.uniform(0.5, 0.9), 0.05, rng.uniform(0.45, 0.65))
        pictures.append(_box(size, (side * rng.uniform(0.6, 0.8), 0.02, 1.75), art))
    if wall == 2:
        door = Material(pattern="door", base=_color(rng, 0.4, 0.7, 0.3), seed=_seed(rng))
        pictures.append(_box((0.85, 0.05, 2.0), (length / 2 - 0.6, 0.02, 1.0), door))
    return pictures


def _middle(rng: np.random.Generator) -> list[Part]:
    wood, top = _wood(rng), rng.uniform(0.42, 0.72)
    rug = Material(
        pattern="rug", base=_color(rng, 0.15, 0.35), accent=_color(rng, 0.1, 0.3), seed=_seed(rng)
    )
    yaw = rng.uniform(-0.3, 0.3)
    fruit = [
        _round("sphere", 0.09, 0.09, (0.1 * np.cos(a), 0.1 * np.sin(a), top + 0.07),
               _plain(_color(rng, 0.4, 0.6), rng))
        for a in (0.3, 2.1, 4.4)
    ]  # fmt: skip
    parts = [_box((2.4, 1.7, 0.012), (0, 0, 0.006), rug, yaw)]
    if rng.uniform() < 0.5:
        parts += [_round("cylinder", 1.1, 0.05, (0, 0, top), wood),
                  _round("cylinder", 0.12, top, (0, 0, top / 2), wood)]  # fmt: skip
    else:
        parts += [_box((1.2, 0.7, 0.05), (0, 0, top), wood), *_legs(1.1, 0.6, top, 0.0, wood)]
    ball = Material(pattern="stripes", base=_color(rng), accent=_color(rng), scale_m=0.1, seed=2)
    parts += [_round("cylinder", 0.3, 0.03, (0, 0, top + 0.04), _plain(_color(rng), rng)), *fruit]
    return [*parts, _round("sphere", 0.3, 0.3, (0.95, -0.75, 0.16), ball)]


def _lamp(rng: np.random.Generator, height: float) -> list[Part]:
    glow = Material(pattern="plain", base=(1.0, 0.93, 0.75), is_emissive=True)
    z, cord = height - LAMP_DROP_M, _plain((0.1, 0.1, 0.1), rng)
    lamp = [
        _round("sphere", 0.3, 0.3, (0, 0, z), glow),
        _round("cylinder", 0.02, LAMP_DROP_M, (0, 0, height - LAMP_DROP_M / 2), cord),
    ]
    return [replace(part, is_shell=True) for part in lamp]
