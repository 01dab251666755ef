"""What is known of every pixel of a procedural room: object, class, normal, depth; boxes; phrases.

Letters: h w pixels.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8

from vega3d.pipeline.scenes.rooms.film import Film
from vega3d.pipeline.scenes.rooms.furniture import extents, moved
from vega3d.pipeline.scenes.rooms.layout import Thing
from vega3d.pipeline.scenes.rooms.materials import Material, Vector

LABELS = (
    "floor",
    "ceiling",
    "wall",
    "skirting",
    "window",
    "door",
    "picture",
    "rug",
    "sofa",
    "bookshelf",
    "bed",
    "desk",
    "wardrobe",
    "sideboard",
    "plant",
    "armchair",
    "table",
    "chair",
    "crate",
    "barrel",
    "ball",
    "lamp",
)
NO_LABEL = 255
_SEEN_SHARE = 0.012
"""Share of a view's pixels from which on a thing is spoken of."""

_UNSPOKEN = ("ceiling", "skirting")
_HUES = (
    "red",
    "orange",
    "yellow",
    "lime",
    "green",
    "teal",
    "cyan",
    "azure",
    "blue",
    "violet",
    "magenta",
    "pink",
)
_COLORLESS = ("window", "painting", "books")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewTruth:
    """Every pixel's answers, exact at its centre."""

    depth_m: Float32[np.ndarray, "h w"]
    """z-depth, 0 where nothing is met."""

    thing: Int32[np.ndarray, "h w"]
    """Index of the object (or piece of the room) in the room's things, -1 for none."""

    label: UInt8[np.ndarray, "h w"]
    """Index in LABELS, NO_LABEL for none."""

    normal: Float32[np.ndarray, "h w 3"]
    """Outward unit normal in camera axes (x right, y down, z forward); 0 where nothing is met."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """An upright box about an object, along its own axes; metres in the world."""

    label: str
    center: Vector
    size: Vector
    yaw: float


def view_truth(film: Film, index: int) -> ViewTruth:
    """Return the answers to one view."""
    depth_m, solid, face = film.cast(index)
    met, thing = solid >= 0, _things(film, solid)
    labels = np.array([LABELS.index(thing.label) for thing in film.room.things], dtype=np.uint8)
    normal = _normals(film, index, depth_m, solid, face)
    return ViewTruth(
        depth_m=depth_m.astype(np.float32),
        thing=thing.astype(np.int32),
        label=np.where(met, labels[thing], NO_LABEL).astype(np.uint8),
        normal=normal.astype(np.float32),
    )


def things_seen(film: Film, index: int) -> Int64[np.ndarray, "h w"]:
    """Return `thing` of a view's truth alone, in half of the time."""
    return _things(film, film.cast(index)[1])


def label_cells(
    label: UInt8[np.ndarray, "h w"], grid: tuple[int, int]
) -> tuple[Int64[np.ndarray, "gh gw"], Float32[np.ndarray, "gh gw"]]:
    """Return the most frequent class of every cell, and its share of the cell's pixels.

    A cell in which nothing is met has class NO_LABEL.
    """
    (gh, gw), (h, w) = grid, label.shape
    cell = (np.arange(h) * gh // h)[:, None] * gw + np.arange(w) * gw // w
    flat = cell.astype(np.int64) * (NO_LABEL + 1) + label
    counts = np.bincount(flat.reshape(-1), minlength=gh * gw * (NO_LABEL + 1))
    counts = counts.reshape(gh, gw, NO_LABEL + 1)
    share = counts.max(axis=-1) / counts.sum(axis=-1)
    return counts.argmax(axis=-1), share.astype(np.float32)


def _things(film: Film, solid: np.ndarray) -> Int64[np.ndarray, "h w"]:
    """Return the thing that each solid is a part of, -1 for none."""
    counts = [len(thing.parts) for thing in film.room.things]
    thing_of = np.repeat(np.arange(len(counts)), counts)
    return np.where(solid >= 0, thing_of[solid], -1)


def _normals(
    film: Film, index: int, depth_m: np.ndarray, solid: np.ndarray, face: np.ndarray
) -> Float64[np.ndarray, "h w 3"]:
    """Work out normals in numpy, apart from the renderer's own."""
    body, shape = film.solids.body, film.solids.shape
    pose, K = film.poses[index], film.K
    rows, cols = np.indices(depth_m.shape) + 0.5
    rays = np.stack(
        [(cols - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones_like(cols)], -1
    )
    world = (rays * depth_m[..., None]) @ pose[:3, :3].T + pose[:3, 3]
    away = world - body[solid, :3]
    axis, side = face // 2, np.where(face % 2, 1.0, -1.0)
    c, s = body[solid, 6], body[solid, 7]
    along_x = np.stack([c * side, s * side, 0 * c], -1)
    along_y = np.stack([-s * side, c * side, 0 * c], -1)
    up = np.stack([0 * c, 0 * c, side], -1)
    of_box = np.where(
        (axis == 0)[..., None], along_x, np.where((axis == 1)[..., None], along_y, up)
    )
    cap = np.stack([0 * c, 0 * c, np.where(face == 2, 1.0, -1.0)], -1)
    of_cylinder = np.where((face == 0)[..., None], away * (1, 1, 0), cap)
    kinds = shape[solid][..., None]
    normal = np.select([kinds == 0, kinds == 1], [of_box, of_cylinder], away)
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True).clip(1e-12)
    return np.where((solid >= 0)[..., None], normal @ pose[:3, :3], 0.0)


def boxes(film: Film) -> list[Box]:
    """Return the box of every object; walls, floor and the like have none."""
    return [_box(thing) for thing in film.room.things if not thing.is_shell]


def _box(thing: Thing) -> Box:
    """Turn a thing so that its first part lies straight, and take its extents."""
    yaw = thing.parts[0].yaw
    straight = moved(list(thing.parts), 0.0, 0.0, -yaw)
    x0, x1, y0, y1 = extents(straight)
    z0 = min(part.center[2] - part.size[2] / 2 for part in straight)
    z1 = max(part.center[2] + part.size[2] / 2 for part in straight)
    c, s, x, y = np.cos(yaw), np.sin(yaw), (x0 + x1) / 2, (y0 + y1) / 2
    return Box(
        label=thing.label,
        center=(float(c * x - s * y), float(s * x + c * y), (z0 + z1) / 2),
        size=(x1 - x0, y1 - y0, z1 - z0),
        yaw=yaw,
    )


def phrases(film: Film, index: int) -> list[str]:
    """Return what a view shows, largest first, each once: such as `dark green plain sofa`."""
    thing = _things(film, film.cast(index)[1])
    counts = np.bincount(thing[thing >= 0], minlength=len(film.room.things)) / thing.size
    order = np.argsort(-counts, kind="stable")
    seen = [film.room.things[i] for i in order if counts[i] >= _SEEN_SHARE]
    said = [phrase(thing) for thing in seen if thing.label not in _UNSPOKEN]
    return list(dict.fromkeys(said))


def phrase(thing: Thing) -> str:
    """Return colour, pattern and class of a thing."""
    material = thing.parts[0].material
    words = [] if material.pattern in _COLORLESS else [_color_name(material)]
    if material.pattern != thing.label:
        words.append(material.pattern)
    return " ".join([*words, thing.label])


def _color_name(material: Material) -> str:
    shown = [min(1.0, value) ** (1 / 2.2) for value in material.base]
    hue, strength, light = colorsys.rgb_to_hsv(*shown)
    if strength < 0.13:
        return "white" if light > 0.75 else "grey" if light > 0.35 else "black"
    name = _HUES[int(hue * 12 + 0.5) % 12]
    return f"dark {name}" if light < 0.45 else name
