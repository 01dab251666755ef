"""Questions answered in a few words: ScanQA about a room, SQA3D from where someone stands."""

from collections.abc import Iterator
from itertools import combinations, permutations
from typing import Any

import numpy as np

from vega3d.evaluate.benchmarks.made.facts import Facts, Known
from vega3d.evaluate.benchmarks.made.question import Asker, Question
from vega3d.evaluate.benchmarks.made.relations import (
    CLEAR_M,
    bearing,
    can_stand,
    farthest,
    gap_m,
    nearest,
    side,
)
from vega3d.pipeline.scenes.rooms.truth import LABELS

_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_REACH_M = 2.0


def scanqa(facts: Facts) -> Iterator[Question]:
    """Yield questions about a room as a whole."""
    classes, named = facts.classes(), facts.named()
    ask = Asker(benchmark="scanqa", scene_id=facts.scene_id)
    for thing in named:
        if thing.color and thing.name == thing.label:
            yield ask("colour", "appearance", f"What color is the {thing.label}?", thing.color)
    there = {thing.label for thing in facts.things}
    for label in LABELS[7:]:
        if label in classes or label not in there:
            answer = "yes" if label in there else "no"
            yield ask("there", "appearance", f"Is there a {label}?", answer, ("yes", "no"))
    for label, members in classes.items():
        if len(members) < len(_COUNTS):
            text = f"How many of the kind {label} are there?"
            yield ask("count", "both", text, _COUNTS[len(members)])
    for members in facts.several():
        if len({thing.color for thing in members}) == len(members) and members[0].color:
            for anchor in (each for each in named if each.label != members[0].label):
                for word, pick in (("closest to", nearest), ("farthest from", farthest)):
                    if (picked := pick(members, anchor)) is not None:
                        text = f"What color is the {picked.label} {word} the {anchor.name}?"
                        yield ask("colour by place", "both", text, picked.color)
    for anchor, (a, b) in ((x, pair) for x in named for pair in combinations(named, 2)):
        if anchor not in (a, b) and (closer := nearest([a, b], anchor)) is not None:
            text = f"Which is closer to the {anchor.name}, the {a.name} or the {b.name}?"
            yield ask("closer", "geometry", text, closer.name, (a.name, b.name))


def sqa3d(facts: Facts) -> Iterator[Question]:
    """Yield questions of someone who stands at one thing and faces another."""
    named = facts.named()
    for stand, face in permutations(named, 2):
        if not can_stand(stand, face):
            continue
        ask = Asker(benchmark="sqa3d", scene_id=facts.scene_id, more=_situation(stand, face))
        for other in named:
            if other not in (stand, face) and can_stand(stand, other):
                yield from _turning(ask, bearing(stand, face, other), other)
        yield from _from_here(ask, facts, stand, face)


def _turning(ask: Asker, angle: float, other: Known) -> Iterator[Question]:
    if not (word := side(angle)):
        return
    where = "left", "right"
    for asked in where:
        answer = "yes" if word == asked else "no"
        text = f"Is the {other.name} on my {asked}?"
        yield ask("on my side", "geometry", text, answer, ("yes", "no"))
        text = f"Can I face the {other.name} with a turn to the {asked} of less than half a circle?"
        yield ask("turn", "geometry", text, answer, ("yes", "no"))
    text = f"Which side of me is the {other.name} on, left or right?"
    yield ask("which side", "geometry", text, word, where)


def _from_here(ask: Asker, facts: Facts, stand: Known, face: Known) -> Iterator[Question]:
    named = [thing for thing in facts.named() if thing not in (stand, face)]
    for a, b in combinations(named, 2):
        if (closer := nearest([a, b], stand)) is not None:
            text = f"What is closer to me, the {a.name} or the {b.name}?"
            names = a.name, b.name
            yield ask("closer", "geometry", text, closer.name, names)
    for members in facts.several():
        gaps = [gap_m(thing.box, stand.box) for thing in members]
        if all(abs(gap - _REACH_M) > CLEAR_M for gap in gaps):
            number = sum(gap < _REACH_M for gap in gaps)
            text = f"How many of the kind {members[0].label} are within two meters of me?"
            if number < len(_COUNTS):
                yield ask("within", "geometry", text, _COUNTS[number])
        sides = [side(bearing(stand, face, thing)) for thing in members]
        colors = {thing.color for thing in members}
        if stand not in members and all(sides) and "" not in colors and len(colors) == len(members):
            for word in ("left", "right"):
                if sides.count(word) == 1:
                    thing = members[sides.index(word)]
                    text = f"What color is the {thing.label} on my {word}?"
                    yield ask("colour", "both", text, thing.color)


def _situation(stand: Known, face: Known) -> dict[str, Any]:
    ahead = face.center[:2] - stand.center[:2]
    yaw = float(np.arctan2(ahead[1], ahead[0]))
    return {
        "situation": f"I am standing at the {stand.name} facing the {face.name}.",
        "position": {"x": float(stand.center[0]), "y": float(stand.center[1]), "z": 0.0},
        "rotation": {
            "_x": 0.0,
            "_y": 0.0,
            "_z": float(np.sin(yaw / 2)),
            "_w": float(np.cos(yaw / 2)),
        },
    }
