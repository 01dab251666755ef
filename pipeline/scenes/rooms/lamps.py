"""The lamps of procedural rooms: their light on a face, with soft shadows.

It is kept in maps of one value per `TEXEL_M` of a surface, each worked out when a view first shows
it: of a room's surfaces, eight views show about an eighth.
"""

import math
from typing import NamedTuple

import numpy as np

from vega3d.pipeline.compiled import bare, inlined
from vega3d.pipeline.scenes.rooms.casting import CYLINDER, SPHERE, UNLIT, Solids, meet, on_face

TEXEL_M = 0.1
_RIM_M = 0.3
_RIM = tuple(
    (_RIM_M * math.cos(k * 2 * math.pi / 5), _RIM_M * math.sin(k * 2 * math.pi / 5))
    for k in range(5)
)
"""Points on a lamp's rim, from its middle; more give softer shadows."""


class Lights(NamedTuple):
    """What shines in a room, the same for all its views."""

    lamps: np.ndarray
    """Positions, [n, 3]."""

    lamp_color: np.ndarray
    sky_color: np.ndarray
    window_normal: np.ndarray
    """Where the window's light comes from, a unit vector in the plane."""

    size: np.ndarray
    """The room's extents along x, y and z, m."""


@inlined
def light_between(s: Solids, lights: Lights, i: int, face: int, p: float, q: float) -> float:
    """Return the lamps' light on a face at p, q in -1..1, interpolated."""
    columns, rows = s.maps[i, face, 1], s.maps[i, face, 2]
    x = min(max((p + 1) * 0.5 * (columns - 1), 0.0), columns - 1.001)
    y = min(max((q + 1) * 0.5 * (rows - 1), 0.0), rows - 1.001)
    left, low = int(x), int(y)
    at = s.maps[i, face, 0] + low * columns + left
    if (
        s.light[at] == UNLIT
        or s.light[at + 1] == UNLIT
        or s.light[at + columns] == UNLIT
        or s.light[at + columns + 1] == UNLIT
    ):
        _light_up(s, lights, i, face, left, low)
    fx, fy = x - left, y - low
    below = s.light[at] * (1 - fx) + s.light[at + 1] * fx
    above = s.light[at + columns] * (1 - fx) + s.light[at + columns + 1] * fx
    return float(below * (1 - fy) + above * fy)


@bare
def _lamp_light(
    s: Solids, lights: Lights, wx: float, wy: float, wz: float, nx: float, ny: float, nz: float
) -> float:
    """Return the lamps' light at a point, its shadows softened over the rims."""
    total = 0.0
    ox, oy, oz = wx + 2e-3 * nx, wy + 2e-3 * ny, wz + 2e-3 * nz
    for lamp in range(len(lights.lamps)):
        x, y, z = lights.lamps[lamp, 0], lights.lamps[lamp, 1], lights.lamps[lamp, 2]
        hidden = _hidden(s, ox, oy, oz, x, y, z)
        for point in range(len(_RIM)):
            dx, dy, dz = x + _RIM[point][0] - ox, y + _RIM[point][1] - oy, z - oz
            square = dx * dx + dy * dy + dz * dz
            cosine = (nx * dx + ny * dy + nz * dz) / math.sqrt(square)
            if cosine > 0 and not hidden >> point & 1:
                total += cosine * 3.2 / (1 + 0.55 * square) / len(_RIM)
    return total


@bare
def _hidden(s: Solids, ox: float, oy: float, oz: float, x: float, y: float, z: float) -> int:
    """Return which points of a lamp's rim something hides from o, a bit each."""
    hidden = 0
    for i in range(len(s.shape)):
        if not s.casts[i] or not _is_near(s.body, i, ox, oy, oz, x - ox, y - oy, z - oz, _RIM_M):
            continue
        for point in range(len(_RIM)):
            dx, dy, dz = x + _RIM[point][0] - ox, y + _RIM[point][1] - oy, z - oz
            if hidden >> point & 1 or not _is_near(s.body, i, ox, oy, oz, dx, dy, dz, 0.0):
                continue
            near, _ = meet(s.shape, s.body, i, ox, oy, oz, dx, dy, dz)
            if near < 1.0:
                hidden |= 1 << point
    return hidden


@bare
def _is_near(
    body: np.ndarray,
    i: int,
    ox: float,
    oy: float,
    oz: float,
    dx: float,
    dy: float,
    dz: float,
    margin_m: float,
) -> bool:
    """Say whether the way from o to o + d comes so near to the sphere about solid i."""
    qx, qy, qz = body[i, 0] - ox, body[i, 1] - oy, body[i, 2] - oz
    square = dx * dx + dy * dy + dz * dz
    t = min(max((qx * dx + qy * dy + qz * dz) / square, 0.0), 1.0)
    ex, ey, ez = qx - t * dx, qy - t * dy, qz - t * dz
    return bool(ex * ex + ey * ey + ez * ez <= (body[i, 8] + margin_m) ** 2)


@bare
def _light_up(s: Solids, lights: Lights, i: int, face: int, left: int, low: int) -> None:
    """Work out the lamps' light at four neighbours of a face's map, where nobody has yet."""
    start, columns, rows = s.maps[i, face, 0], s.maps[i, face, 1], s.maps[i, face, 2]
    for row in range(low, low + 2):
        for column in range(left, left + 2):
            at = start + row * columns + column
            if s.light[at] != UNLIT:
                continue
            # Just inside the rim, where neighbours do not shadow it by rounding.
            p = (2 * column / (columns - 1) - 1) * 0.998
            q = (2 * row / (rows - 1) - 1) * 0.998
            x, y, z = _point_of(s, i, face, p, q)
            _, _, _, _, nx, ny, nz = on_face(s.shape, s.body, i, face, x, y, z)
            s.light[at] = _lamp_light(s, lights, x, y, z, nx, ny, nz)


@bare
def _point_of(s: Solids, i: int, face: int, p: float, q: float) -> tuple[float, float, float]:
    """Return the world position of a face's point; p and q in -1..1."""
    hx, hy, hz = s.body[i, 3], s.body[i, 4], s.body[i, 5]
    if s.shape[i] >= CYLINDER and face == 0:
        ring = hx * math.sqrt(max(1 - q * q, 0.0)) if s.shape[i] == SPHERE else hx
        x, y, z = ring * math.cos(math.pi * p), ring * math.sin(math.pi * p), hz * q
    elif s.shape[i] == CYLINDER:
        x, y, z = hx * p, hx * q, hz if face == 2 else -hz
    else:
        side = 1.0 if face % 2 else -1.0
        if face < 2:
            x, y, z = side * hx, hy * p, hz * q
        elif face < 4:
            x, y, z = hx * p, side * hy, hz * q
        else:
            x, y, z = hx * p, hy * q, side * hz
    c, n = s.body[i, 6], s.body[i, 7]
    return s.body[i, 0] + c * x - n * y, s.body[i, 1] + n * x + c * y, s.body[i, 2] + z
