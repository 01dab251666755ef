"""Light in procedural rooms: what arrives at a surface, and what depends on the view.

Gloss, the light that the camera carries, exposure and white balance are the view's.
"""

import math
from typing import NamedTuple

import numpy as np

from vega3d.pipeline.compiled import bare, compiled, inlined
from vega3d.pipeline.scenes.rooms.casting import Face, Solids, first_met, meet, on_face
from vega3d.pipeline.scenes.rooms.lamps import Lights, light_between
from vega3d.pipeline.scenes.rooms.patterns import pattern_color


class Exposure(NamedTuple):
    """What a view's camera makes of the light."""

    gain: np.ndarray
    """Exposure times white balance, one factor a colour."""

    headlight: float
    """Strength of the light at the camera."""

    display: np.ndarray
    """What is shown for light 0 to 1, in equal steps, uint8."""


@bare
def _corner_shade(
    size: np.ndarray, wx: float, wy: float, wz: float, nx: float, ny: float, nz: float
) -> float:
    """Darken what lies close to a wall, floor or ceiling that it does not belong to."""
    gx, gy, gz = size[0] / 2 - abs(wx), size[1] / 2 - abs(wy), min(wz, size[2] - wz)
    shade = 1 - 0.45 * math.exp(-max(gx, 0.0) / 0.25) * (1 - abs(nx))
    shade *= 1 - 0.45 * math.exp(-max(gy, 0.0) / 0.25) * (1 - abs(ny))
    return shade * (1 - 0.45 * math.exp(-max(gz, 0.0) / 0.25) * (1 - abs(nz)))


@bare
def _power_48(x: float) -> float:
    x = x * x * x
    x *= x
    x *= x
    x *= x
    return x * x


@bare
def _shine(
    lights: Lights,
    eye: np.ndarray,
    wx: float,
    wy: float,
    wz: float,
    nx: float,
    ny: float,
    nz: float,
) -> float:
    """Return the lamps' reflection towards the eye. Source: Blinn 1977, the halfway vector."""
    vx, vy, vz = eye[0, 3] - wx, eye[1, 3] - wy, eye[2, 3] - wz
    v = math.sqrt(vx * vx + vy * vy + vz * vz) + 1e-9
    total = 0.0
    for lamp in range(len(lights.lamps)):
        lx, ly, lz = (
            lights.lamps[lamp, 0] - wx,
            lights.lamps[lamp, 1] - wy,
            lights.lamps[lamp, 2] - wz,
        )
        length = math.sqrt(lx * lx + ly * ly + lz * lz) + 1e-9
        hx, hy, hz = lx / length + vx / v, ly / length + vy / v, lz / length + vz / v
        half = math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9
        cosine = max((nx * hx + ny * hy + nz * hz) / half, 0.0)
        total += _power_48(cosine) / (1 + 0.15 * length * length)
    return total


@inlined
def _arriving(
    s: Solids,
    lights: Lights,
    exposure: Exposure,
    m: np.ndarray,
    i: int,
    face: int,
    wx: float,
    wy: float,
    wz: float,
    on: Face,
    out: np.ndarray,
) -> None:
    """Write the light at a point to out[:3], and the gloss that is added to out[3]."""
    u, v, hu, hv, nx, ny, nz = on
    lamp = light_between(s, lights, i, face, u / hu, v / hv)
    w = lights.window_normal
    window = min(max(0.25 - 0.6 * (nx * w[0] + ny * w[1]), 0.0), 1.0) * 0.35
    sky = (0.36 + 0.1 * nz + window) * _corner_shade(lights.size, wx, wy, wz, nx, ny, nz)
    vx, vy, vz = m[0, 3] - wx, m[1, 3] - wy, m[2, 3] - wz
    square = vx * vx + vy * vy + vz * vz
    facing = max((nx * vx + ny * vy + nz * vz) / math.sqrt(square + 1e-12), 0.0)
    head = exposure.headlight * facing / (0.5 + 0.5 * square)
    for k in range(3):
        out[k] = lamp * lights.lamp_color[k] + sky * lights.sky_color[k] + head
    shadow = min(lamp * 2, 1.0)  # a lamp that is hidden does not mirror
    out[3] = (
        s.paint[i, 7] * shadow * _shine(lights, m, wx, wy, wz, nx, ny, nz)
        if s.paint[i, 7] > 0
        else 0
    )


@bare
def _around(solid: np.ndarray, face: np.ndarray, row: int, col: int, found: np.ndarray) -> int:
    """Write the solids that the nine pixels about one show to `found`; return how many.

    0 where all nine show the same face: nothing is to be found out there.
    """
    middle, side = solid[row, col], face[row, col]
    top, bottom = max(row - 1, 0), min(row + 2, solid.shape[0])
    left, right = max(col - 1, 0), min(col + 2, solid.shape[1])
    same = 0
    for r in range(top, bottom):
        for c in range(left, right):
            same += solid[r, c] == middle and face[r, c] == side
    if same == (bottom - top) * (right - left):
        return 0
    count = 0
    for r in range(top, bottom):
        for c in range(left, right):
            known = solid[r, c] < 0
            for k in range(count):
                known |= found[k] == solid[r, c]
            if not known:
                found[count] = solid[r, c]
                count += 1
    return count


@compiled
def shade(
    s: Solids,
    lights: Lights,
    exposure: Exposure,
    world_from_camera: np.ndarray,
    K: np.ndarray,
    solid: np.ndarray,
    face: np.ndarray,
    rgb: np.ndarray,
) -> None:
    """Fill the picture, [h, w, 3] uint8, of what `cast` met: 2 samples a pixel, 4 at edges."""
    found, light, total = np.empty(9, np.int64), np.zeros(4), np.zeros(3)
    for row in range(len(rgb)):
        _shade_row(
            s, lights, exposure, world_from_camera, K, solid, face, rgb, row, found, light, total
        )


@bare
def _shade_row(
    s: Solids,
    lights: Lights,
    exposure: Exposure,
    m: np.ndarray,
    K: np.ndarray,
    solid: np.ndarray,
    face: np.ndarray,
    rgb: np.ndarray,
    row: int,
    found: np.ndarray,
    light: np.ndarray,
    total: np.ndarray,
) -> None:
    steps = len(exposure.display) - 1
    for col in range(solid.shape[1]):
        count = _around(solid, face, row, col, found)
        if solid[row, col] < 0 and count == 0:
            continue
        if count == 0:
            found[0] = solid[row, col]
        _pixel(s, lights, exposure, m, K, row, col, found, count, light, total)
        for k in range(3):
            rgb[row, col, k] = exposure.display[int(total[k] * steps)]


@inlined
def _pixel(
    s: Solids,
    lights: Lights,
    exposure: Exposure,
    m: np.ndarray,
    K: np.ndarray,
    row: int,
    col: int,
    found: np.ndarray,
    count: int,
    light: np.ndarray,
    total: np.ndarray,
) -> None:
    """Write a pixel's colour to `total`; light is worked out once for a face."""
    total[:] = 0
    samples = 4 if count else 2
    lit, lit_side = -1, -1
    for sample in range(samples):
        right = sample % 2
        down = sample // 2 if count else right
        x = (col + 0.25 + 0.5 * right - K[0, 2]) / K[0, 0]
        y = (row + 0.25 + 0.5 * down - K[1, 2]) / K[1, 1]
        dx = m[0, 0] * x + m[0, 1] * y + m[0, 2]
        dy = m[1, 0] * x + m[1, 1] * y + m[1, 2]
        dz = m[2, 0] * x + m[2, 1] * y + m[2, 2]
        if count == 0:
            i = found[0]
            z, side = meet(s.shape, s.body, i, m[0, 3], m[1, 3], m[2, 3], dx, dy, dz)
            i = i if z < math.inf else -1
        else:
            z, i, side = first_met(
                s.shape, s.body, found, count, m[0, 3], m[1, 3], m[2, 3], dx, dy, dz
            )
        if i < 0:
            continue
        wx, wy, wz = m[0, 3] + z * dx, m[1, 3] + z * dy, m[2, 3] + z * dz
        on = on_face(s.shape, s.body, i, side, wx, wy, wz)
        if not s.kind[i, 2] and (i != lit or side != lit_side):
            _arriving(s, lights, exposure, m, i, side, wx, wy, wz, on, light)
            lit, lit_side = i, side
        u, v, hu, hv = on[:4]
        color = pattern_color(s.kind[i, 0], s.paint, i, s.kind[i, 1], u, v, hu, hv)
        for k in range(3):
            albedo = min(max(color[k], 0.0), 1.0)
            seen = albedo if s.kind[i, 2] else albedo * light[k] + light[3]
            total[k] += min(seen * exposure.gain[k], 1.0) / samples
