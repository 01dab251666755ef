"""Surface colours of procedural rooms, as functions of the position on the surface.

Letters: n surface points. `uv` are metres along a face, so that every view of a point agrees on its
colour. Colours are linear RGB in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

Colors = Float[np.ndarray, "n 3"]
UV = Float[np.ndarray, "n 2"]
Number = float | int  # beartype takes no int for a float
Vector = tuple[Number, Number, Number]


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What a surface looks like."""

    pattern: str
    """One of PATTERNS."""

    base: Vector
    accent: Vector = (0.1, 0.1, 0.1)
    scale_m: float = 0.2
    """Size of a plank, tile, stripe or book."""

    seed: int = 0
    is_emissive: bool = False
    """Shows its colour whatever the light."""


def surface_colors(material: Material, uv: UV, half_m: Float[np.ndarray, "n 2"]) -> Colors:
    """Return the colour at each point.

    Args:
        material: What it is made of.
        uv: Position on the face, from its middle, metres.
        half_m: Half the face's size, metres, for pictures that fill a face.
    """
    colors = PATTERNS[material.pattern](material, uv, half_m)
    return np.asarray(np.clip(colors, 0, 1))


def noise(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, " n"]:
    """Return smooth noise in [0, 1]: values on the lattice of integers, interpolated."""
    column, row = np.floor(x), np.floor(y)
    fx, fy = x - column, y - row
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    i, j = column.astype(np.int64), row.astype(np.int64)
    low = hashed(i, j, seed) * (1 - fx) + hashed(i + 1, j, seed) * fx
    high = hashed(i, j + 1, seed) * (1 - fx) + hashed(i + 1, j + 1, seed) * fx
    return np.asarray(low * (1 - fy) + high * fy)


def hashed(
    i: Int64[np.ndarray, " n"], j: Int64[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, " n"]:
    """Return a number in [0, 1] for each lattice point; integers only, so equal on every machine.

    Source: the finaliser of MurmurHash3 (A. Appleby, public domain).
    """
    bits = (i * 0x9E3779B1 + j * 0x85EBCA77 + seed * 0xC2B2AE3D).astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    bits = bits ^ (bits >> np.uint32(16))
    return np.asarray(bits.astype(np.float64) / 0xFFFFFFFF)


def _mix(a: object, b: object, share: Float[np.ndarray, " n"]) -> Colors:
    low, high = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return np.asarray(low + (high - low) * share[:, None])


def _cells(
    x: Float[np.ndarray, " n"], size: float
) -> tuple[Int64[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    whole = np.floor(x / size)
    return whole.astype(np.int64), x / size - whole


def _plain(m: Material, uv: UV, half_m: UV) -> Colors:
    blotches = noise(uv[:, 0] * 3, uv[:, 1] * 3, m.seed) + 0.5 * noise(
        uv[:, 0] * 14, uv[:, 1] * 14, m.seed + 1
    )
    return np.asarray(m.base) * (0.85 + 0.2 * blotches[:, None])


def _wood(m: Material, uv: UV, half_m: UV) -> Colors:
    row, across = _cells(uv[:, 1], m.scale_m)
    shifted = uv[:, 0] + hashed(row, row * 0, m.seed) * 3
    board, along = _cells(shifted, m.scale_m * 8)
    tint = hashed(row, board, m.seed + 1)
    grain = noise(uv[:, 0] * 4, uv[:, 1] * 70 + tint * 50, m.seed + 2)
    gap = (across < 0.03) | (along < 0.004)
    wood = _mix(m.base, m.accent, np.clip(0.15 + 0.45 * tint + 0.4 * (grain - 0.3), 0, 1))
    return np.where(gap[:, None], wood * 0.35, wood)


def _tiles(m: Material, uv: UV, half_m: UV) -> Colors:
    i, fx = _cells(uv[:, 0], m.scale_m)
    j, fy = _cells(uv[:, 1], m.scale_m)
    grout = (np.minimum(fx, fy) < 0.035) | (np.maximum(fx, fy) > 0.965)
    tile = _mix(m.base, m.accent, ((i + j) % 2).astype(float))
    tile = tile * (0.85 + 0.2 * hashed(i, j, m.seed))[:, None]
    marble = noise(uv[:, 0] * 9, uv[:, 1] * 9, m.seed + 3)
    return np.where(grout[:, None], 0.3, tile * (0.85 + 0.25 * marble)[:, None])


def _bricks(m: Material, uv: UV, half_m: UV) -> Colors:
    j, fy = _cells(uv[:, 1], m.scale_m / 3)
    i, fx = _cells(uv[:, 0] + (j % 2) * m.scale_m / 2, m.scale_m)
    mortar = (fx < 0.04) | (fy < 0.12)
    brick = _mix(
        m.base,
        m.accent,
        0.7 * hashed(i, j, m.seed) + 0.3 * noise(uv[:, 0] * 40, uv[:, 1] * 40, m.seed),
    )
    return np.where(mortar[:, None], 0.45, brick)


def _stripes(m: Material, uv: UV, half_m: UV) -> Colors:
    _, f = _cells(uv[:, 0], m.scale_m)
    j, fy = _cells(uv[:, 1], m.scale_m)
    dots = ((f - 0.25) ** 2 + (fy - 0.5) ** 2 < 0.008).astype(float)
    wide = _mix(m.base, m.accent, (f > 0.5).astype(float))
    return (
        _mix(wide, wide * 0.55, dots)
        if m.seed % 2
        else wide * (0.92 + 0.1 * hashed(j * 0, j, 0))[:, None]
    )


def _rug(m: Material, uv: UV, half_m: UV) -> Colors:
    edge = np.min(half_m - np.abs(uv), axis=1)
    band, _ = _cells(edge, 0.09)
    diamond = (np.abs(uv[:, 0]) / 0.5 + np.abs(uv[:, 1]) / 0.35) * 3
    inner, _ = _cells(diamond, 1.0)
    share = np.where(band < 4, (band % 2), (inner % 2)).astype(float)
    weave = 0.85 + 0.15 * noise(uv[:, 0] * 120, uv[:, 1] * 120, m.seed)
    color = _mix(m.base, m.accent, share)
    cream = (band == 1) | ((band >= 4) & (inner % 4 == 2))
    return np.where(cream[:, None], (0.75, 0.68, 0.52), color) * weave[:, None]


def _fabric(m: Material, uv: UV, half_m: UV) -> Colors:
    (_, fx), (_, fy) = _cells(uv[:, 0], m.scale_m), _cells(uv[:, 1], m.scale_m)
    check = ((fx < 0.3).astype(float) + (fy < 0.3)) / 2
    weave = 0.8 + 0.25 * noise(uv[:, 0] * 60, uv[:, 1] * 60, m.seed)
    return _mix(m.base, m.accent, check * (m.seed % 3 > 0)) * weave[:, None]


def _books(m: Material, uv: UV, half_m: UV) -> Colors:
    i, f = _cells(uv[:, 0] + 0.01 * np.sin(9 * uv[:, 0]), m.scale_m)
    shelf, height = _cells(uv[:, 1] + half_m[:, 1], 0.33)
    hue = hashed(i, shelf, m.seed)
    spine = 0.12 + 0.6 * _hues(hue, 0.55)
    band = (np.abs(height - 0.55 - 0.2 * hue) < 0.03)[:, None]
    spine = np.where(band, 0.75, spine)
    gap = (f < 0.08) | (height > 0.62 + 0.3 * hashed(i, shelf, m.seed + 1))
    shelf_edge = height > 0.93
    return np.where(shelf_edge[:, None], m.base, np.where(gap[:, None], 0.02, spine))


def _painting(m: Material, uv: UV, half_m: UV) -> Colors:
    x, y = uv[:, 0] / half_m[:, 0], uv[:, 1] / half_m[:, 1]
    sky = _mix(m.base, m.accent, np.clip(0.5 + 0.5 * y, 0, 1))
    sun_x = 0.6 * hashed(np.array([m.seed]), np.array([1]), 0) - 0.2
    sun = (x - sun_x) ** 2 + (y - 0.3) ** 2 < 0.06
    picture = np.where(sun[:, None], (0.95, 0.75, 0.35), sky)
    for layer in range(3):
        ridge = 0.1 - 0.4 * layer + 0.5 * noise(x * (1.5 + layer), x * 0 + layer, m.seed + layer)
        hill = np.asarray(m.accent)[::-1] * (0.7 - 0.22 * layer)
        picture = np.where((y < ridge - 0.1)[:, None], hill, picture)
    frame = np.maximum(np.abs(x), np.abs(y)) > 0.9
    return np.where(frame[:, None], (0.12, 0.07, 0.03), picture)


def _window(m: Material, uv: UV, half_m: UV) -> Colors:
    x, y = uv[:, 0] / half_m[:, 0], uv[:, 1] / half_m[:, 1]
    clouds = noise(uv[:, 0] * 3, uv[:, 1] * 6, m.seed) * noise(
        uv[:, 0] * 9, uv[:, 1] * 14, m.seed + 1
    )
    sky = _mix(
        _mix((0.75, 0.85, 0.95), (0.25, 0.5, 0.85), np.clip(0.5 + 0.5 * y, 0, 1)),
        (0.95, 0.95, 0.95),
        np.clip(clouds * 2 - 0.3, 0, 1),
    )
    trees = y < -0.55 + 0.5 * noise(uv[:, 0] * 5, x * 0, m.seed + 5)
    leaves = (0.4 + 0.6 * noise(uv[:, 0] * 25, uv[:, 1] * 25, m.seed))[:, None] * np.array(
        (0.15, 0.33, 0.08)
    )
    view = np.where(trees[:, None], leaves, sky)
    bars = (
        (np.maximum(np.abs(x), np.abs(y)) > 0.92)
        | (np.abs(uv[:, 0]) < 0.025)
        | (np.abs(y - 0.2) < 0.03)
    )
    return np.where(bars[:, None], (0.8, 0.8, 0.78), view)


def _door(m: Material, uv: UV, half_m: UV) -> Colors:
    x, y = uv[:, 0] / half_m[:, 0], uv[:, 1] / half_m[:, 1]
    panel_x, panel_y = np.abs(np.abs(x) - 0.45), np.abs(np.abs(y) - 0.48)
    rim = np.maximum(panel_x / 0.33, panel_y / 0.38)
    shade = np.where(rim < 0.9, 0.85, np.where(rim < 1.0, 0.55, 1.0))
    grain = 0.9 + 0.15 * noise(uv[:, 0] * 50, uv[:, 1] * 4, m.seed)
    knob = (x - 0.85) ** 2 * half_m[:, 0] ** 2 + (y + 0.05) ** 2 * half_m[:, 1] ** 2 < 0.0012
    return np.where(knob[:, None], (0.75, 0.6, 0.25), np.asarray(m.base) * (shade * grain)[:, None])


def _leaves(m: Material, uv: UV, half_m: UV) -> Colors:
    spots = noise(uv[:, 0] * 30, uv[:, 1] * 30, m.seed)
    return _mix(m.base, m.accent, spots**2)


def _hues(hue: Float[np.ndarray, " n"], strength: float) -> Colors:
    angles = hue[:, None] + np.array([0.0, 1 / 3, 2 / 3])
    return np.asarray(1 - strength + strength * np.cos(2 * np.pi * angles))


PATTERNS: dict[str, Callable[[Material, UV, UV], Colors]] = {
    "plain": _plain,
    "wood": _wood,
    "tiles": _tiles,
    "bricks": _bricks,
    "stripes": _stripes,
    "rug": _rug,
    "fabric": _fabric,
    "books": _books,
    "painting": _painting,
    "window": _window,
    "door": _door,
    "leaves": _leaves,
}
