"""Rays against the solids of a room, and what a ray meets: exact, in float64.

A solid is a box, an upright cylinder or a sphere, turned about z. Faces: of a box 2 * axis + (1 on
the positive side); of a cylinder 0 around, 1 below, 2 above; of a sphere 0. Lengths in metres.
"""

import math
from typing import NamedTuple

import numpy as np

from vega3d.pipeline.compiled import bare, compiled

SHAPES = ("box", "cylinder", "sphere")
BOX, CYLINDER, SPHERE = range(3)
Met = tuple[float, int]
Face = tuple[float, float, float, float, float, float, float]

UNLIT = -1.0
TILE_PX = 16
"""Side of the squares of pixels that share a list of the solids in sight."""


class Solids(NamedTuple):
    """All solids of a room, one row each, in few arrays, as compiled functions take them."""

    shape: np.ndarray
    """BOX, CYLINDER or SPHERE."""

    body: np.ndarray
    """Middle x y z, half its size along x y z, cos and sin of its yaw, radius about it: [n, 9]."""

    casts: np.ndarray
    """Whether it stands in the lamps' light; the room itself does not."""

    kind: np.ndarray
    """Pattern, seed, whether it glows: [n, 3]."""

    paint: np.ndarray
    """Base colour, accent, size of the pattern, gloss: [n, 8]."""

    maps: np.ndarray
    """Where a face's map of baked light begins (-1: it has none), columns and rows: [n, 6, 3]."""

    light: np.ndarray
    """All maps of the lamps' light; UNLIT where nobody has asked yet."""


@bare
def meet(
    shape: np.ndarray,
    body: np.ndarray,
    i: int,
    ox: float,
    oy: float,
    oz: float,
    dx: float,
    dy: float,
    dz: float,
) -> Met:
    """Return how far along a ray it enters solid i (inf: never), and by which face."""
    x, y, z = ox - body[i, 0], oy - body[i, 1], oz - body[i, 2]
    c, n = body[i, 6], body[i, 7]
    x, y = c * x + n * y, c * y - n * x
    dx, dy = c * dx + n * dy, c * dy - n * dx
    if shape[i] == BOX:
        return _meet_box(body[i, 3], body[i, 4], body[i, 5], x, y, z, dx, dy, dz)
    r = body[i, 3]
    if shape[i] == SPHERE:
        return _quadratic(
            dx * dx + dy * dy + dz * dz, x * dx + y * dy + z * dz, x * x + y * y + z * z - r * r
        ), 0
    return _meet_cylinder(r, body[i, 5], x, y, z, dx, dy, dz)


@bare
def _meet_box(
    hx: float, hy: float, hz: float, x: float, y: float, z: float, dx: float, dy: float, dz: float
) -> Met:
    ix, iy, iz = 1.0 / dx, 1.0 / dy, 1.0 / dz
    ax, bx = (-hx - x) * ix, (hx - x) * ix
    ay, by = (-hy - y) * iy, (hy - y) * iy
    az, bz = (-hz - z) * iz, (hz - z) * iz
    nx, ny, nz = min(ax, bx), min(ay, by), min(az, bz)
    near = max(nx, max(ny, nz))
    far = min(max(ax, bx), min(max(ay, by), max(az, bz)))
    if not near <= far or near < 1e-4:
        return math.inf, 0
    if near == nx:
        return near, 0 if dx > 0 else 1
    if near == ny:
        return near, 2 if dy > 0 else 3
    return near, 4 if dz > 0 else 5


@bare
def _quadratic(a: float, b: float, c: float) -> float:
    inside = b * b - a * c
    if inside < 0:
        return math.inf
    near = (-b - math.sqrt(inside)) / a
    return near if near > 1e-4 else math.inf


@bare
def _meet_cylinder(
    r: float, hz: float, x: float, y: float, z: float, dx: float, dy: float, dz: float
) -> Met:
    near = _quadratic(dx * dx + dy * dy, x * dx + y * dy, x * x + y * y - r * r)
    if abs(z + near * dz) <= hz:
        return near, 0
    cap = ((-hz if dz > 0 else hz) - z) / dz
    px, py = x + cap * dx, y + cap * dy
    if cap > 1e-4 and px * px + py * py <= r * r:
        return cap, 1 if dz > 0 else 2
    return math.inf, 0


@bare
def on_face(
    shape: np.ndarray, body: np.ndarray, i: int, face: int, wx: float, wy: float, wz: float
) -> Face:
    """Return u, v on a face, half its size along both, and the outward normal in the world."""
    x, y, z = wx - body[i, 0], wy - body[i, 1], wz - body[i, 2]
    c, n = body[i, 6], body[i, 7]
    x, y = c * x + n * y, c * y - n * x
    hx, hy, hz = body[i, 3], body[i, 4], body[i, 5]
    if shape[i] == BOX:
        side = 1.0 if face % 2 else -1.0
        if face < 2:
            return y, z, hy, hz, c * side, n * side, 0.0
        if face < 4:
            return x, z, hx, hz, -n * side, c * side, 0.0
        return x, y, hx, hy, 0.0, 0.0, side
    if shape[i] == CYLINDER and face > 0:
        return x, y, hx, hx, 0.0, 0.0, 1.0 if face == 2 else -1.0
    up = z if shape[i] == SPHERE else 0.0
    length = math.sqrt(x * x + y * y + up * up) + 1e-12
    nx, ny, nz = x / length, y / length, up / length
    # Around is measured as an arc, so that a pattern keeps its size.
    return math.atan2(y, x) * hx, z, math.pi * hx, hz, c * nx - n * ny, n * nx + c * ny, nz


@bare
def in_sight(
    shape: np.ndarray,
    body: np.ndarray,
    world_from_camera: np.ndarray,
    K: np.ndarray,
    row: int,
    col: int,
    found: np.ndarray,
) -> int:
    """Write the solids that a tile of pixels may see to `found`; return how many."""
    m = world_from_camera
    left, right = (col - K[0, 2]) / K[0, 0], (col + TILE_PX - K[0, 2]) / K[0, 0]
    top, bottom = (row - K[1, 2]) / K[1, 1], (row + TILE_PX - K[1, 2]) / K[1, 1]
    count = 0
    for i in range(len(body)):
        if (
            _is_beyond(shape, body, i, m, 1.0, 0.0, -left)
            or _is_beyond(shape, body, i, m, -1.0, 0.0, right)
            or _is_beyond(shape, body, i, m, 0.0, 1.0, -top)
            or _is_beyond(shape, body, i, m, 0.0, -1.0, bottom)
        ):
            continue
        found[count] = i
        count += 1
    return count


@bare
def _is_beyond(
    shape: np.ndarray, body: np.ndarray, i: int, m: np.ndarray, x: float, y: float, z: float
) -> bool:
    """Say whether a solid lies wholly behind a plane through the camera; its normal is x y z there.

    The box about the solid is asked: how far its foremost corner reaches.
    """
    nx = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z
    ny = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z
    nz = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z
    hx = body[i, 3]
    hy = body[i, 4] if shape[i] == BOX else hx
    hz = hx if shape[i] == SPHERE else body[i, 5]
    c, n = body[i, 6], body[i, 7]
    reach = abs(c * nx + n * ny) * hx + abs(c * ny - n * nx) * hy + abs(nz) * hz
    ox, oy, oz = body[i, 0] - m[0, 3], body[i, 1] - m[1, 3], body[i, 2] - m[2, 3]
    return bool(nx * ox + ny * oy + nz * oz + reach < 0)


@bare
def first_met(
    shape: np.ndarray,
    body: np.ndarray,
    found: np.ndarray,
    count: int,
    ox: float,
    oy: float,
    oz: float,
    dx: float,
    dy: float,
    dz: float,
) -> tuple[float, int, int]:
    """Return how far the ray goes, the solid it meets first (-1: none) and the face."""
    best, solid, side = math.inf, -1, 0
    for j in range(count):
        near, face = meet(shape, body, found[j], ox, oy, oz, dx, dy, dz)
        if near < best:
            best, solid, side = near, found[j], face
    return best, solid, side


@compiled
def cast(
    s: Solids,
    world_from_camera: np.ndarray,
    K: np.ndarray,
    depth_m: np.ndarray,
    solid: np.ndarray,
    face: np.ndarray,
) -> None:
    """Fill z-depth (0: nothing met), solid and face of every pixel's centre; all [h, w]."""
    found = np.empty(len(s.shape), np.int64)
    for top in range(0, len(depth_m), TILE_PX):
        for left in range(0, depth_m.shape[1], TILE_PX):
            _cast_tile(s, world_from_camera, K, top, left, found, depth_m, solid, face)


@bare
def _cast_tile(
    s: Solids,
    m: np.ndarray,
    K: np.ndarray,
    top: int,
    left: int,
    found: np.ndarray,
    depth_m: np.ndarray,
    solid: np.ndarray,
    face: np.ndarray,
) -> None:
    count = in_sight(s.shape, s.body, m, K, top, left, found)
    for row in range(top, min(top + TILE_PX, depth_m.shape[0])):
        for col in range(left, min(left + TILE_PX, depth_m.shape[1])):
            # z = 1 in the camera, so that the way along a ray is its z-depth.
            x, y = (col + 0.5 - K[0, 2]) / K[0, 0], (row + 0.5 - K[1, 2]) / K[1, 1]
            dx = m[0, 0] * x + m[0, 1] * y + m[0, 2]
            dy = m[1, 0] * x + m[1, 1] * y + m[1, 2]
            dz = m[2, 0] * x + m[2, 1] * y + m[2, 2]
            z, i, side = first_met(
                s.shape, s.body, found, count, m[0, 3], m[1, 3], m[2, 3], dx, dy, dz
            )
            depth_m[row, col] = z if i >= 0 else 0.0
            solid[row, col] = i
            face[row, col] = side
