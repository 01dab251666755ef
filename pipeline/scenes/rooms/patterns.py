"""Surface colours of procedural rooms, as functions of the position on the surface.

`u`, `v` are metres along a face from its middle, so that every view of a point agrees on its
colour; `hu`, `hv` are half the face's size. Row `i` of `p` is the paint: base colour, accent, size
of the pattern. Colours are linear RGB. One function a pattern, in `materials.PATTERNS`' order.
"""

import math

import numpy as np

from vega3d.pipeline.compiled import bare

RGB = tuple[float, float, float]


@bare
def hashed(i: int, j: int, seed: int) -> float:
    """Return a number in [0, 1) for a lattice point; integers only, so equal on every machine.

    Source: the finaliser of MurmurHash3 (A. Appleby, public domain).
    """
    bits = (i * 0x9E3779B1 + j * 0x85EBCA77 + seed * 0xC2B2AE3D) & 0xFFFFFFFF
    bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    bits = bits ^ (bits >> 16)
    return bits / 4294967296.0


@bare
def noise(x: float, y: float, seed: int) -> float:
    """Return smooth noise in [0, 1]: values on the lattice of integers, interpolated."""
    i, j = math.floor(x), math.floor(y)
    fx, fy = x - i, y - j
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    low = hashed(i, j, seed) * (1 - fx) + hashed(i + 1, j, seed) * fx
    high = hashed(i, j + 1, seed) * (1 - fx) + hashed(i + 1, j + 1, seed) * fx
    return low * (1 - fy) + high * fy


@bare
def _mix(p: np.ndarray, i: int, share: float) -> RGB:
    share = min(max(share, 0.0), 1.0)
    return (
        p[i, 0] + (p[i, 3] - p[i, 0]) * share,
        p[i, 1] + (p[i, 4] - p[i, 1]) * share,
        p[i, 2] + (p[i, 5] - p[i, 2]) * share,
    )


@bare
def _times(color: RGB, factor: float) -> RGB:
    return color[0] * factor, color[1] * factor, color[2] * factor


@bare
def _cell(x: float, size: float) -> tuple[int, float]:
    whole = math.floor(x / size)
    return whole, x / size - whole


@bare
def _plain(p: np.ndarray, i: int, u: float, v: float, seed: int) -> RGB:
    blotches = noise(u * 3, v * 3, seed) + 0.5 * noise(u * 14, v * 14, seed + 1)
    shade = 0.85 + 0.2 * blotches
    return p[i, 0] * shade, p[i, 1] * shade, p[i, 2] * shade


@bare
def _wood(p: np.ndarray, i: int, u: float, v: float, size: float, seed: int) -> RGB:
    row, across = _cell(v, size)
    board, along = _cell(u + hashed(row, 0, seed) * 3, size * 8)
    tint = hashed(row, board, seed + 1)
    grain = noise(u * 4, v * 70 + tint * 50, seed + 2)
    color = _mix(p, i, 0.15 + 0.45 * tint + 0.4 * (grain - 0.3))
    return _times(color, 0.35) if across < 0.03 or along < 0.004 else color


@bare
def _tiles(p: np.ndarray, i: int, u: float, v: float, size: float, seed: int) -> RGB:
    a, fx = _cell(u, size)
    b, fy = _cell(v, size)
    if min(fx, fy) < 0.035 or max(fx, fy) > 0.965:
        return 0.3, 0.3, 0.3
    marble = 0.85 + 0.25 * noise(u * 9, v * 9, seed + 3)
    return _times(_mix(p, i, float((a + b) % 2)), (0.85 + 0.2 * hashed(a, b, seed)) * marble)


@bare
def _bricks(p: np.ndarray, i: int, u: float, v: float, size: float, seed: int) -> RGB:
    j, fy = _cell(v, size / 3)
    a, fx = _cell(u + (j % 2) * size / 2, size)
    if fx < 0.04 or fy < 0.12:
        return 0.45, 0.45, 0.45
    return _mix(p, i, 0.7 * hashed(a, j, seed) + 0.3 * noise(u * 40, v * 40, seed))


@bare
def _stripes(p: np.ndarray, i: int, u: float, v: float, size: float, seed: int) -> RGB:
    _, f = _cell(u, size)
    j, fy = _cell(v, size)
    wide = _mix(p, i, 1.0 if f > 0.5 else 0.0)
    if seed % 2:
        return _times(wide, 0.55) if (f - 0.25) ** 2 + (fy - 0.5) ** 2 < 0.008 else wide
    return _times(wide, 0.92 + 0.1 * hashed(0, j, 0))


@bare
def _rug(p: np.ndarray, i: int, u: float, v: float, hu: float, hv: float, seed: int) -> RGB:
    band, _ = _cell(min(hu - abs(u), hv - abs(v)), 0.09)
    inner, _ = _cell((abs(u) / 0.5 + abs(v) / 0.35) * 3, 1.0)
    weave = 0.85 + 0.15 * noise(u * 120, v * 120, seed)
    if band == 1 or (band >= 4 and inner % 4 == 2):
        return 0.75 * weave, 0.68 * weave, 0.52 * weave
    share = band % 2 if band < 4 else inner % 2
    return _times(_mix(p, i, float(share)), weave)


@bare
def _fabric(p: np.ndarray, i: int, u: float, v: float, size: float, seed: int) -> RGB:
    _, fx = _cell(u, size)
    _, fy = _cell(v, size)
    check = 0.5 * ((fx < 0.3) + (fy < 0.3)) if seed % 3 > 0 else 0.0
    return _times(_mix(p, i, check), 0.8 + 0.25 * noise(u * 60, v * 60, seed))


@bare
def _books(p: np.ndarray, i: int, u: float, v: float, hv: float, size: float, seed: int) -> RGB:
    a, f = _cell(u + 0.01 * math.sin(9 * u), size)
    shelf, height = _cell(v + hv, 0.33)
    hue = hashed(a, shelf, seed)
    if height > 0.93:
        return p[i, 0], p[i, 1], p[i, 2]
    if f < 0.08 or height > 0.62 + 0.3 * hashed(a, shelf, seed + 1):
        return 0.02, 0.02, 0.02
    if abs(height - 0.55 - 0.2 * hue) < 0.03:
        return 0.75, 0.75, 0.75
    red = math.cos(2 * math.pi * hue)
    green = math.cos(2 * math.pi * (hue + 1 / 3))
    blue = math.cos(2 * math.pi * (hue + 2 / 3))
    return 0.39 + 0.33 * red, 0.39 + 0.33 * green, 0.39 + 0.33 * blue


@bare
def _painting(p: np.ndarray, i: int, u: float, v: float, hu: float, hv: float, seed: int) -> RGB:
    x, y = u / hu, v / hv
    if max(abs(x), abs(y)) > 0.9:
        return 0.12, 0.07, 0.03
    sun_x = 0.6 * hashed(seed, 1, 0) - 0.2
    color = _mix(p, i, 0.5 + 0.5 * y)
    if (x - sun_x) ** 2 + (y - 0.3) ** 2 < 0.06:
        color = (0.95, 0.75, 0.35)
    for layer in range(3):
        ridge = 0.1 - 0.4 * layer + 0.5 * noise(x * (1.5 + layer), float(layer), seed + layer)
        if y < ridge - 0.1:
            shade = 0.7 - 0.22 * layer
            color = (p[i, 5] * shade, p[i, 4] * shade, p[i, 3] * shade)
    return color


@bare
def _window(u: float, v: float, hu: float, hv: float, seed: int) -> RGB:
    x, y = u / hu, v / hv
    if max(abs(x), abs(y)) > 0.92 or abs(u) < 0.025 or abs(y - 0.2) < 0.03:
        return 0.8, 0.8, 0.78
    if y < -0.55 + 0.5 * noise(u * 5, 0.0, seed + 5):
        leaf = 0.4 + 0.6 * noise(u * 25, v * 25, seed)
        return 0.15 * leaf, 0.33 * leaf, 0.08 * leaf
    clouds = noise(u * 3, v * 6, seed) * noise(u * 9, v * 14, seed + 1)
    cloud = min(max(clouds * 2 - 0.3, 0.0), 1.0)
    up = min(max(0.5 + 0.5 * y, 0.0), 1.0)
    red, green, blue = 0.75 - 0.5 * up, 0.85 - 0.35 * up, 0.95 - 0.1 * up
    return (
        red + (0.95 - red) * cloud,
        green + (0.95 - green) * cloud,
        blue + (0.95 - blue) * cloud,
    )


@bare
def _door(p: np.ndarray, i: int, u: float, v: float, hu: float, hv: float, seed: int) -> RGB:
    x, y = u / hu, v / hv
    if (x - 0.85) ** 2 * hu**2 + (y + 0.05) ** 2 * hv**2 < 0.0012:
        return 0.75, 0.6, 0.25
    rim = max(abs(abs(x) - 0.45) / 0.33, abs(abs(y) - 0.48) / 0.38)
    shade = 0.85 if rim < 0.9 else (0.55 if rim < 1.0 else 1.0)
    shade *= 0.9 + 0.15 * noise(u * 50, v * 4, seed)
    return p[i, 0] * shade, p[i, 1] * shade, p[i, 2] * shade


@bare
def pattern_color(
    pattern: int,
    p: np.ndarray,
    i: int,
    seed: int,
    u: float,
    v: float,
    hu: float,
    hv: float,
) -> RGB:
    """Return the colour at a point of a face; `pattern` counts `materials.PATTERNS`."""
    size = p[i, 6]
    if pattern == 0:
        return _plain(p, i, u, v, seed)
    if pattern == 1:
        return _wood(p, i, u, v, size, seed)
    if pattern == 2:
        return _tiles(p, i, u, v, size, seed)
    if pattern == 3:
        return _bricks(p, i, u, v, size, seed)
    if pattern == 4:
        return _stripes(p, i, u, v, size, seed)
    if pattern == 5:
        return _rug(p, i, u, v, hu, hv, seed)
    if pattern == 6:
        return _fabric(p, i, u, v, size, seed)
    if pattern == 7:
        return _books(p, i, u, v, hv, size, seed)
    if pattern == 8:
        return _painting(p, i, u, v, hu, hv, seed)
    if pattern == 9:
        return _window(u, v, hu, hv, seed)
    if pattern == 10:
        return _door(p, i, u, v, hu, hv, seed)
    spots = noise(u * 30, v * 30, seed)
    return _mix(p, i, spots * spots)
