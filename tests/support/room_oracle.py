"""Reads questions as a person would, and answers them from the room itself.

Written apart from what makes the questions: sentences are parsed, boxes come from corners, sides
from the sign of a cross product, first sights from pixels of the full pictures.
"""

import re
from functools import cached_property

import numpy as np

from vega3d.pipeline.scenes.rooms.rooms import Rooms
from vega3d.pipeline.scenes.rooms.truth import boxes, phrase, view_truth

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
PLURALS = {"bookshelves": "bookshelf"}


class Oracle:
    """What someone with a plan of the room says."""

    def __init__(self, rooms: Rooms, scene_id: str) -> None:
        self.film = rooms.film(scene_id)
        self.things = [t for t in self.film.room.things if not t.is_shell]
        self.labels = [t.label for t in self.things]
        self.looks = [phrase(t) for t in self.things]
        self.low, self.high = (
            np.array([e[side] for e in map(corners, self.things)]) for side in (0, 1)
        )
        self.middle = (self.low + self.high) / 2

    @cached_property
    def first(self) -> dict[str, int]:
        """First view with a thing of each class on more than 0.3 % of its pixels."""
        found: dict[str, int] = {}
        index = [i for i, t in enumerate(self.film.room.things) if not t.is_shell]
        for view in range(len(self.film.poses)):
            thing = view_truth(self.film, view).thing
            for number, label in zip(index, self.labels, strict=True):
                if (thing == number).mean() > 0.003:
                    found.setdefault(label, view)
        return found

    def of(self, name: str) -> list[int]:
        """Things of a class, or of a colour and a class."""
        label = name.split()[-1]
        color = name.removesuffix(label).strip()
        return [
            i
            for i, (known, look) in enumerate(zip(self.labels, self.looks, strict=True))
            if known == label and (not color or re.match(rf"{color} ", look))
        ]

    def the(self, name: str) -> int:
        (found,) = self.of(name)
        return found

    def gap(self, a: int, b: int) -> float:
        apart = np.maximum(self.low[a] - self.high[b], self.low[b] - self.high[a])
        return float(np.linalg.norm(apart.clip(0)))

    def color(self, thing: int) -> str:
        words = self.looks[thing].split()
        return " ".join(words[:2]) if words[0] == "dark" else words[0]

    def box(self, thing: int) -> list[float]:
        return [*self.middle[thing], *(self.high[thing] - self.low[thing])]

    def longest(self, thing: int) -> float:
        return max(boxes(self.film)[thing].size)

    def cross_dot(self, at: int, ahead: np.ndarray, thing: int) -> tuple[float, float]:
        """Sine (left is positive) and cosine of where a thing lies."""
        there = self.middle[thing, :2] - self.middle[at, :2]
        size = np.linalg.norm(ahead) * np.linalg.norm(there)
        sine = (ahead[0] * there[1] - ahead[1] * there[0]) / size
        return float(sine), float(ahead @ there / size)

    def ahead(self, stand: str, face: str) -> np.ndarray:
        return self.middle[self.the(face), :2] - self.middle[self.the(stand), :2]

    # Descriptions

    def referred(self, text: str) -> list[int]:
        if found := re.fullmatch(r"all (.+) within 1.5 meters of the (.+)", text):
            anchor = self.the(found[2])
            return [i for i in self.plural(found[1]) if self.gap(i, anchor) < 1.5]
        if found := re.fullmatch(r"all (.+)", text):
            return self.plural(found[1])
        if found := re.fullmatch(r"this is the (.+) that is (closest|farthest) \w+ the (.+)", text):
            return [self.placed(found[1], found[2], found[3])]
        if found := re.fullmatch(r"this is the largest (.+)", text):
            return [max(self.of(found[1]), key=self.longest)]
        (found,) = re.findall(r"this is the (.+)", text)
        return [self.the(found)]

    def plural(self, name: str) -> list[int]:
        color, _, word = name.rpartition(" ")
        return self.of(f"{color} {PLURALS.get(word, word[:-1])}".strip())

    def placed(self, name: str, which: str, anchor: str) -> int:
        pick = min if which == "closest" else max
        return pick(self.of(name), key=lambda i: self.gap(i, self.the(anchor)))

    def caption(self, box: list[float]) -> str:
        thing = int(np.abs(self.middle - box[:3]).sum(axis=1).argmin())
        return f"this is a {self.looks[thing]}."

    # Answers in words

    def says(self, text: str) -> str:
        if found := re.fullmatch(r"Is there a (.+)\?", text):
            return "yes" if found[1] in self.labels else "no"
        if found := re.fullmatch(r"How many of the kind (.+) are there\?", text):
            return NUMBERS[len(self.of(found[1]))]
        pattern = r"What color is the (.+) (closest|farthest) \w+ the (.+)\?"
        if found := re.fullmatch(pattern, text):
            return self.color(self.placed(found[1], found[2], found[3]))
        if found := re.fullmatch(r"What color is the (.+)\?", text):
            return self.color(self.the(found[1]))
        (found,) = re.findall(r"Which is closer to the (.+), the (.+) or the (.+)\?", text)
        return min(found[1:], key=lambda name: self.gap(self.the(name), self.the(found[0])))

    def says_from(self, situation: str, text: str) -> str:
        (place,) = re.findall(r"standing at the (.+) facing the (.+)\.", situation)
        stand, ahead = self.the(place[0]), self.ahead(*place)

        def is_left(thing: int) -> bool:
            return self.cross_dot(stand, ahead, thing)[0] > 0

        if found := re.fullmatch(
            r"(?:Is|Can I face) the (.+?) (?:on|with).* (left|right).*\?", text
        ):
            return "yes" if is_left(self.the(found[1])) == (found[2] == "left") else "no"
        if found := re.match(r"Which side of me is the (.+) on,", text):
            return "left" if is_left(self.the(found[1])) else "right"
        if found := re.match(r"What is closer to me, the (.+) or the (.+)\?", text):
            return min(found.groups(), key=lambda name: self.gap(self.the(name), stand))
        if found := re.match(r"How many of the kind (.+) are within two", text):
            return NUMBERS[sum(self.gap(i, stand) < 2 for i in self.of(found[1]))]
        (found,) = re.findall(r"What color is the (.+) on my (left|right)\?", text)
        (thing,) = [i for i in self.of(found[0]) if is_left(i) == (found[1] == "left")]
        return self.color(thing)

    # VSI-Bench

    def spatial(self, text: str, options: list[str] | None) -> str:
        if options is None:
            return f"{self.number(text):.4f}"
        right = self.choice(text)
        return next(option[0] for option in options if option[3:].lower() == right.lower())

    def number(self, text: str) -> float:
        if found := re.match(r"How many (.+)\(s\)", text):
            return len(self.of(found[1]))
        if found := re.search(r"distance between the (.+) and the (.+) \(in meters\)", text):
            return self.gap(self.the(found[1]), self.the(found[2]))
        if found := re.search(r"\) of the (.+), measured in centimeters", text):
            return 100 * self.longest(self.the(found[1]))
        assert text.startswith("What is the size of this room")
        return sum((x1 - x0) * (y1 - y0) for x0, x1, y0, y1 in self.film.room.areas)

    def choice(self, text: str) -> str:
        if found := re.search(r"these objects \((.+)\) is the closest to the (.+)\?", text):
            anchor = self.the(found[2])
            return min(found[1].split(", "), key=lambda name: self.gap(self.the(name), anchor))
        pattern = r"standing by the (.+) and facing the (.+), is the (.+) to my (.+)\?"
        if found := re.search(pattern, text):
            sine, cosine = self.cross_dot(
                self.the(found[1]), self.ahead(found[1], found[2]), self.the(found[3])
            )
            side = "left" if sine > 0 else "right"
            if "front" in found[4]:
                return f"{'front' if cosine > 0 else 'back'}-{side}"
            return "back" if "back" in found[4] and cosine < -np.sqrt(0.5) else side
        pattern = r"beginning at the (.+) facing the (.+)\. You want to navigate to the (.+)\. You"
        if found := re.search(pattern, text):
            sine, cosine = self.cross_dot(
                self.the(found[2]), self.ahead(found[1], found[2]), self.the(found[3])
            )
            turn = "back" if cosine < -np.sqrt(0.5) else "left" if sine > 0 else "right"
            return f"turn {turn}"
        (found,) = re.findall(r"following categories in the video: (.+)\?", text)
        return ", ".join(sorted(found.split(", "), key=lambda label: self.first[label]))


def corners(thing: object) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest corner over a thing's parts."""
    points = []
    for part in thing.parts:
        signs = np.array(np.meshgrid(*[[-0.5, 0.5]] * 3)).reshape(3, -1).T * part.size
        if part.shape == "box":
            c, s = np.cos(part.yaw), np.sin(part.yaw)
            signs = signs @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        points.append(signs + part.center)
    found = np.concatenate(points)
    return found.min(axis=0), found.max(axis=0)
