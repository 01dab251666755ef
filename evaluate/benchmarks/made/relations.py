"""Relations between things, each with a margin: what is not clearly so is not said.

Boxes are centre and size, metres; angles in degrees, counter-clockwise seen from above.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from vega3d.evaluate.benchmarks.made.facts import Known

CLEAR_M = 0.3
"""Difference of two distances from which on one thing is nearer."""

CLEAR_DEGREES = 15.0
"""Angle to a sector's border from which on a thing lies within."""


def gap_m(a: Float64[np.ndarray, " 6"], b: Float64[np.ndarray, " 6"]) -> float:
    """Return the distance between the nearest points of two boxes; 0 where they meet."""
    apart = np.abs(a[:3] - b[:3]) - (a[3:] + b[3:]) / 2
    return float(np.linalg.norm(np.maximum(apart, 0.0)))


def nearest(things: Sequence[Known], anchor: Known) -> Known | None:
    """Return the thing that is clearly the nearest to another, box to box."""
    return _extreme(things, lambda thing: gap_m(thing.box, anchor.box), CLEAR_M)


def farthest(things: Sequence[Known], anchor: Known) -> Known | None:
    """Return the thing that is clearly the farthest from another, box to box."""
    return _extreme(things, lambda thing: -gap_m(thing.box, anchor.box), CLEAR_M)


def largest(things: Sequence[Known]) -> Known | None:
    """Return the thing whose longest side is clearly the longest."""
    return _extreme(things, lambda thing: -max(thing.own_size), 0.1)


def bearing(stand: Known, face: Known, other: Known) -> float:
    """Return where a thing lies for someone who stands at one and faces another.

    Returns:
        Degrees in (-180, 180]: 0 straight ahead, positive to the left.
    """
    ahead, there = face.center[:2] - stand.center[:2], other.center[:2] - stand.center[:2]
    turn = np.arctan2(there[1], there[0]) - np.arctan2(ahead[1], ahead[0])
    return float(-((-np.degrees(turn) + 180.0) % 360.0 - 180.0))


def can_stand(stand: Known, *others: Known) -> bool:
    """Say whether things are far enough from where someone stands for directions to be clear."""
    return all(float(np.linalg.norm(other.center[:2] - stand.center[:2])) > 0.8 for other in others)


def side(angle: float) -> str:
    """Return `left` or `right` where it is clearly so, else an empty text."""
    if not CLEAR_DEGREES < abs(angle) < 180.0 - CLEAR_DEGREES:
        return ""
    return "left" if angle > 0 else "right"


def quarter(angle: float) -> str:
    """Return front-left, front-right, back-left or back-right where clear, else an empty text."""
    if not side(angle) or abs(abs(angle) - 90.0) < CLEAR_DEGREES:
        return ""
    return f"{'front' if abs(angle) < 90.0 else 'back'}-{side(angle)}"


def three_way(angle: float) -> str:
    """Return left, right, or back for a turn of at least 135 degrees; empty where unclear."""
    if abs(abs(angle) - 135.0) < CLEAR_DEGREES or abs(angle) < CLEAR_DEGREES:
        return ""
    return "back" if abs(angle) > 135.0 else side(angle)


def _extreme(
    things: Sequence[Known], value: Callable[[Known], float], margin: float
) -> Known | None:
    """Return the thing of the smallest value, where the second is above it by a margin."""
    ordered = sorted(things, key=value)
    if len(ordered) < 2 or value(ordered[1]) - value(ordered[0]) < margin:
        return None
    return ordered[0]
