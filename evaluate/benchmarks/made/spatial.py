"""VSI-Bench's eight tasks about a room: choices and numbers, in its own wording."""

from collections.abc import Iterator
from itertools import combinations, pairwise, permutations

import numpy as np

from vega3d.evaluate.benchmarks.made.facts import Facts, Known
from vega3d.evaluate.benchmarks.made.question import Asker, Question
from vega3d.evaluate.benchmarks.made.relations import (
    bearing,
    can_stand,
    gap_m,
    nearest,
    quarter,
    side,
    three_way,
)

_MIN_GAP_M = 0.3  # a relative error needs something to be relative to


def vsi(facts: Facts, rng: np.random.Generator) -> Iterator[Question]:
    """Yield questions of all eight tasks; `rng` draws what is offered, and in which order."""
    ask = Asker(benchmark="vsi", scene_id=facts.scene_id)
    yield from _numbers(ask, facts)
    yield from _near(ask, facts, rng)
    yield from _directions(ask, facts)
    yield from _order(ask, facts, rng)


def _numbers(ask: Asker, facts: Facts) -> Iterator[Question]:
    for members in facts.several():
        text = f"How many {members[0].label}(s) are in this room?"
        yield ask("object_counting", "both", text, str(len(members)))
    for a, b in combinations(facts.named(), 2):
        if (gap := gap_m(a.box, b.box)) >= _MIN_GAP_M:
            text = (
                "Measuring from the closest point of each object's box, what is the distance "
                f"between the {a.name} and the {b.name} (in meters)?"
            )
            yield ask("object_abs_distance", "geometry", text, f"{gap:.2f}")
    for thing in facts.named():
        text = (
            "What is the length of the longest dimension (length, width, or height) of the "
            f"{thing.name}, measured in centimeters?"
        )
        longest = str(round(100 * max(thing.own_size)))
        yield ask("object_size_estimation", "geometry", text, longest)
    text = "What is the size of this room (in square meters)?"
    yield ask("room_size_estimation", "geometry", text, f"{facts.floor_m2:.1f}")


def _near(ask: Asker, facts: Facts, rng: np.random.Generator) -> Iterator[Question]:
    named = facts.named()
    for anchor in named:
        others = [thing for thing in named if thing is not anchor]
        if len(others) < 4:
            continue
        for _ in range(4):
            four = [others[i] for i in rng.permutation(len(others))[:4]]
            if (closest := nearest(four, anchor)) is None:
                continue
            names = ", ".join(thing.name for thing in four)
            text = (
                "Measuring from the closest point of each object's box, which of these objects "
                f"({names}) is the closest to the {anchor.name}?"
            )
            options = tuple(thing.name for thing in four)
            yield ask("object_rel_distance", "geometry", text, closest.name, options)


_THREE, _FOUR = ("left", "right", "back"), ("front-left", "front-right", "back-left", "back-right")


def _directions(ask: Asker, facts: Facts) -> Iterator[Question]:
    for stand, face, other in permutations(facts.named(), 3):
        if not can_stand(stand, face, other) or not can_stand(face, other):
            continue
        angle = bearing(stand, face, other)
        pose = f"If I am standing by the {stand.name} and facing the {face.name}, is the "
        for level, words, options in (
            ("easy", side(angle), _THREE[:2]),
            ("medium", three_way(angle), _THREE),
            ("hard", quarter(angle), _FOUR),
        ):
            if words:
                named = ", ".join(options[:-1]) + f" or {options[-1]}"
                text = f"{pose}{other.name} to my {named}?"
                kind = f"object_rel_direction_{level}"
                yield ask(kind, "geometry", text, words, options)
        yield from _route(ask, stand, face, other)


def _route(ask: Asker, start: Known, first: Known, goal: Known) -> Iterator[Question]:
    """Yield the turn at the first stop of a walk from one thing by way of another to a third."""
    # Who has walked from `start` to `first` looks away from `start`.
    turn = bearing(first, start, goal)
    words = three_way(turn - 180.0 if turn > 0 else turn + 180.0)
    if not words:
        return
    text = (
        f"You are a robot beginning at the {start.name} facing the {first.name}. You want to "
        f"navigate to the {goal.name}. You will perform the following actions: 1. Go forward "
        f"until the {first.name}. 2. [please fill in] 3. Go forward until the {goal.name}."
    )
    options = tuple(f"Turn {word.capitalize()}" for word in _THREE)
    answer = f"Turn {words.capitalize()}"
    yield ask("route_planning", "geometry", text, answer, options)


def _order(ask: Asker, facts: Facts, rng: np.random.Generator) -> Iterator[Question]:
    firsts = facts.first_sights()
    for _ in range(12):
        if len(firsts) < 4:
            return
        labels = [str(label) for label in rng.permutation(list(firsts))[:4]]
        order = sorted(labels, key=lambda label: firsts[label])
        # The same order whether a glimpse counts or a clear sight is asked for.
        pairs = [(firsts[a], firsts[b]) for a, b in pairwise(order)]
        if any(a[0] >= b[0] or a[1] >= b[1] for a, b in pairs):
            continue
        wrong = [each for each in permutations(labels) if list(each) != order]
        picked = [wrong[i] for i in rng.permutation(len(wrong))[:3]]
        offered = [", ".join(each) for each in (order, *picked)]
        text = (
            "What will be the first-time appearance order of the following categories in the "
            f"video: {', '.join(labels)}?"
        )
        options = tuple(offered[i] for i in rng.permutation(4))
        yield ask("obj_appearance_order", "appearance", text, offered[0], options)
