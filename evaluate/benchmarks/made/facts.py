"""What is known of a procedural room: its things with their boxes, and who is seen when.

World: z up, metres. A box is centre and size, [cx, cy, cz, dx, dy, dz], along the world's axes.
Letters: V views, 4 4 world-from-camera.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vega3d.pipeline.scenes.rooms.film import Film
from vega3d.pipeline.scenes.rooms.furniture import Part
from vega3d.pipeline.scenes.rooms.rooms import Rooms
from vega3d.pipeline.scenes.rooms.truth import boxes, phrase, things_seen

SEEN_SHARE = 0.004
"""Share of a view's pixels from which on a thing is seen; fewer is a glimpse."""

_CAST_WIDTH = 96  # seeing needs no more pixels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Known:
    """One object of a room."""

    number: int
    """Its place among the room's objects: the object id of the files."""

    label: str
    look: str
    """Colour, pattern and class, such as `dark red wood desk`."""

    color: str
    """Such as `dark red`; empty for what has no one colour."""

    name: str
    """What it alone is called in its room, by class or by colour and class; empty for none."""

    box: Float64[np.ndarray, " 6"]
    own_size: tuple[float, float, float]
    """Extents along its own axes, metres; a turned thing's are smaller than its box's."""

    first_glimpse: int
    """First view that has a pixel of it; V where none has."""

    first_seen: int
    """First view that shows it clearly; V where none does."""

    @property
    def center(self) -> Float64[np.ndarray, " 3"]:
        """The middle of its box."""
        return self.box[:3]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A room as whoever asks about it knows it."""

    scene_id: str
    things: tuple[Known, ...]
    floor_m2: float
    num_views: int

    def classes(self) -> dict[str, list[Known]]:
        """Return the things of every class of which each thing is seen, so that counts are fair."""
        found: dict[str, list[Known]] = defaultdict(list)
        for thing in self.things:
            found[thing.label].append(thing)
        return {
            label: members
            for label, members in found.items()
            if all(thing.first_seen < self.num_views for thing in members)
        }

    def named(self) -> list[Known]:
        """Return the things that are seen and have a name of their own."""
        return [t for t in self.things if t.name and t.first_seen < self.num_views]

    def first_sights(self) -> dict[str, tuple[int, int]]:
        """Return the first view with a glimpse, and with a clear sight, of each class seen."""
        found = {}
        for label in sorted({thing.label for thing in self.things}):
            members = [thing for thing in self.things if thing.label == label]
            clear = min(thing.first_seen for thing in members)
            if clear < self.num_views:
                found[label] = min(thing.first_glimpse for thing in members), clear
        return found

    def several(self) -> list[list[Known]]:
        """Return the classes with more than one thing, all seen."""
        return [members for members in self.classes().values() if len(members) > 1]


def room_facts(rooms: Rooms, scene_id: str) -> Facts:
    """Return what is known of a room; nothing is rendered but who hides whom."""
    height = max(8, round(_CAST_WIDTH * rooms.height / rooms.width))
    coarse = Rooms(rooms.num_rooms, rooms.views, height, _CAST_WIDTH, rooms.seed)
    film = coarse.film(scene_id)
    shares = np.stack([_shares(film, index) for index in range(rooms.views)])
    objects = [(i, t) for i, t in enumerate(film.room.things) if not t.is_shell]
    names = _names([(t.label, _color(phrase(t), t.label)) for _, t in objects])
    known = [
        Known(
            number=number,
            label=thing.label,
            look=phrase(thing),
            color=_color(phrase(thing), thing.label),
            name=names[number],
            box=_box(thing.parts),
            own_size=(float(own.size[0]), float(own.size[1]), float(own.size[2])),
            first_glimpse=_first(shares[:, index] > 0),
            first_seen=_first(shares[:, index] >= SEEN_SHARE),
        )
        for number, ((index, thing), own) in enumerate(zip(objects, boxes(film), strict=True))
    ]
    return Facts(
        scene_id=scene_id,
        things=tuple(known),
        floor_m2=sum((x1 - x0) * (y1 - y0) for x0, x1, y0, y1 in film.room.areas),
        num_views=rooms.views,
    )


def _shares(film: Film, index: int) -> Float64[np.ndarray, " T"]:
    thing = things_seen(film, index)
    counts = np.bincount(thing[thing >= 0], minlength=len(film.room.things))
    return counts / thing.size


def _names(things: Sequence[tuple[str, str]]) -> list[str]:
    """Return the shortest name that no other thing has, of classes and colours."""
    labels = Counter(label for label, _ in things)
    looks = Counter(things)
    return [
        label
        if labels[label] == 1
        else f"{color} {label}"
        if color and looks[label, color] == 1
        else ""
        for label, color in things
    ]


def _first(seen: np.ndarray) -> int:
    return int(np.argmax(seen)) if seen.any() else len(seen)


def _box(parts: tuple[Part, ...]) -> Float64[np.ndarray, " 6"]:
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for part in parts:
        half = np.array(part.size, dtype=np.float64) / 2
        if part.shape == "box":  # round parts are as wide whichever way they are turned
            cos, sin = abs(np.cos(part.yaw)), abs(np.sin(part.yaw))
            x, y, z = half
            half = np.array([cos * x + sin * y, sin * x + cos * y, z])
        center = np.array(part.center)
        low, high = np.minimum(low, center - half), np.maximum(high, center + half)
    return np.concatenate([(low + high) / 2, high - low])


_PATTERNS = ("plain", "wood", "tiles", "bricks", "stripes", "rug", "fabric", "door", "leaves")
_NO_COLOR = ("window", "painting", "books")


def _color(look: str, label: str) -> str:
    words = look.removesuffix(label).split()
    words = [word for word in words if word not in _PATTERNS]
    return "" if not words or words[0] in _NO_COLOR else " ".join(words)
