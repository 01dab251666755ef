"""What surfaces of procedural rooms are made of; `patterns.py` says what that looks like."""

from dataclasses import dataclass

import numpy as np

Number = float | int  # beartype takes no int for a float
Vector = tuple[Number, Number, Number]

PATTERNS = (
    "plain",
    "wood",
    "tiles",
    "bricks",
    "stripes",
    "rug",
    "fabric",
    "books",
    "painting",
    "window",
    "door",
    "leaves",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What a surface looks like; colours are linear RGB in [0, 1]."""

    pattern: str
    """One of PATTERNS."""

    base: Vector
    accent: Vector = (0.1, 0.1, 0.1)
    scale_m: float = 0.2
    """Size of a plank, tile, stripe or book."""

    seed: int = 0
    gloss: float = 0.0
    """Strength of the lamps' reflection, 0 is matt."""

    is_emissive: bool = False
    """Shows its colour whatever the light."""


def draw_seed(rng: np.random.Generator) -> int:
    """Return a seed for a pattern."""
    return int(rng.integers(1 << 16))


def draw_color(
    rng: np.random.Generator, low: float = 0.1, high: float = 0.7, strength: float = 0.45
) -> Vector:
    """Return a colour of any hue; strength 0 is grey, 1 is garish."""
    hue, light, strength = rng.uniform(), rng.uniform(low, high), strength * rng.uniform(0.6, 1.2)
    waves = np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3])))
    red, green, blue = np.clip(light * (1 + strength * waves), 0.02, 0.95).tolist()
    return red, green, blue


_WOODS = (
    ((0.55, 0.33, 0.16), (0.36, 0.19, 0.08)),
    ((0.30, 0.15, 0.07), (0.16, 0.07, 0.03)),
    ((0.68, 0.50, 0.30), (0.52, 0.34, 0.18)),
    ((0.45, 0.40, 0.36), (0.30, 0.26, 0.23)),
    ((0.20, 0.19, 0.18), (0.12, 0.11, 0.10)),
)


def wood(rng: np.random.Generator) -> Material:
    """Return boards of one of a few woods, matt or varnished."""
    base, accent = _WOODS[int(rng.integers(len(_WOODS)))]
    return Material(
        pattern="wood",
        base=base,
        accent=accent,
        scale_m=rng.uniform(0.08, 0.2),
        seed=draw_seed(rng),
        gloss=_gloss(rng),
    )


def plain(color: Vector, rng: np.random.Generator, gloss: float | None = None) -> Material:
    """Return a blotchy paint; `gloss` None draws one."""
    shine = _gloss(rng) if gloss is None else gloss
    return Material(pattern="plain", base=color, seed=draw_seed(rng), gloss=shine)


def fabric(rng: np.random.Generator) -> Material:
    """Return checked or plain cloth."""
    return Material(
        pattern="fabric",
        base=draw_color(rng),
        accent=draw_color(rng),
        scale_m=rng.uniform(0.07, 0.2),
        seed=draw_seed(rng),
    )


def tiles(rng: np.random.Generator) -> Material:
    """Return light tiles with tinted ones between, often polished."""
    return Material(
        pattern="tiles",
        base=draw_color(rng, 0.4, 0.65, 0.15),
        accent=draw_color(rng, 0.2, 0.5, 0.2),
        scale_m=rng.uniform(0.2, 0.6),
        seed=draw_seed(rng),
        gloss=rng.uniform(0.0, 0.7),
    )


def stripes(rng: np.random.Generator, scale_m: float) -> Material:
    """Return stripes of two colours, some with dots."""
    return Material(
        pattern="stripes",
        base=draw_color(rng),
        accent=draw_color(rng),
        scale_m=scale_m,
        seed=draw_seed(rng),
    )


def any_material(rng: np.random.Generator) -> Material:
    """Return something that a small thing may be made of."""
    kind = int(rng.integers(5))
    if kind == 0:
        return fabric(rng)
    if kind == 1:
        return wood(rng)
    if kind == 2:
        return plain(draw_color(rng), rng)
    if kind == 3:
        return stripes(rng, rng.uniform(0.05, 0.2))
    return tiles(rng)


def wall_materials(rng: np.random.Generator) -> tuple[Material, Material]:
    """Return what most walls are covered with, and one wall in particular."""
    light = draw_color(rng, 0.35, 0.75, 0.25)
    shade = (0.8 * light[0], 0.8 * light[1], 0.8 * light[2])
    papers = [
        plain(light, rng, gloss=0.0),
        Material(
            pattern="stripes",
            base=light,
            accent=shade,
            scale_m=rng.uniform(0.15, 0.5),
            seed=draw_seed(rng),
        ),
        Material(
            pattern="bricks",
            base=(0.50, 0.25, 0.17),
            accent=(0.36, 0.15, 0.10),
            scale_m=0.26,
            seed=draw_seed(rng),
        ),
        tiles(rng),
    ]
    return papers[int(rng.integers(2))], papers[int(rng.integers(4))]


def _gloss(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.2, 0.8)) if rng.uniform() < 0.4 else 0.0
