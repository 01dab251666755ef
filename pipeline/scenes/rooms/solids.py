"""Rooms as arrays of solids, ready to be cast and baked."""

import numpy as np

from vega3d.pipeline.scenes.rooms.casting import BOX, SHAPES, SPHERE, UNLIT, Solids
from vega3d.pipeline.scenes.rooms.furniture import Part
from vega3d.pipeline.scenes.rooms.lamps import TEXEL_M
from vega3d.pipeline.scenes.rooms.layout import Room
from vega3d.pipeline.scenes.rooms.materials import PATTERNS


def room_solids(room: Room) -> Solids:
    """Return a room's solids in the order of its things and their parts, maps of light unlit."""
    parts = [part for thing in room.things for part in thing.parts]
    shape = np.array([SHAPES.index(part.shape) for part in parts])
    half = np.array([part.size for part in parts], dtype=np.float64) / 2
    yaw = np.array([part.yaw for part in parts])
    emissive = np.array([part.material.is_emissive for part in parts])
    maps, texels = _plan_light(shape, half, emissive)
    centers = np.array([part.center for part in parts], dtype=np.float64)
    radius = np.array([_radius(part) for part in parts])
    looks = [part.material for part in parts]
    kind = [(PATTERNS.index(look.pattern), look.seed, int(look.is_emissive)) for look in looks]
    paint = [(*look.base, *look.accent, look.scale_m, look.gloss) for look in looks]
    return Solids(
        shape=shape,
        body=np.column_stack([centers, half, np.cos(yaw), np.sin(yaw), radius]),
        casts=np.array([part.casts_shadow for part in parts]),
        kind=np.array(kind),
        paint=np.array(paint, dtype=np.float64),
        maps=maps,
        light=np.full(texels, UNLIT, np.float32),
    )


def _radius(part: Part) -> float:
    """Return the radius of the sphere about a part."""
    x, _, z = part.size
    if part.shape == "box":
        return float(np.linalg.norm(part.size)) / 2
    return float(np.hypot(x, z)) / 2 if part.shape == "cylinder" else float(x) / 2


def _plan_light(
    shape: np.ndarray, half: np.ndarray, emissive: np.ndarray
) -> tuple[np.ndarray, int]:
    """Lay out the maps of baked light: where each face's begins, columns, rows; and all texels."""
    maps = np.full((len(shape), 6, 3), -1)
    used = 0
    for i, (x, y, z) in enumerate(half):
        if emissive[i]:
            continue
        if shape[i] == BOX:
            faces = [(y, z), (y, z), (x, z), (x, z), (x, y), (x, y)]
        else:
            around = (np.pi * x, z)
            faces = [around] if shape[i] == SPHERE else [around, (x, x), (x, x)]
        for face, (u, v) in enumerate(faces):
            columns, rows = int(2 * u / TEXEL_M) + 2, int(2 * v / TEXEL_M) + 2
            maps[i, face] = used, columns, rows
            used += columns * rows
    return maps, used
