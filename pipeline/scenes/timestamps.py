"""Matching what two sensors recorded by their time stamps."""

from collections.abc import Sequence

import numpy as np


def nearest(times_s: Sequence[float], of_s: Sequence[float], tolerance_s: float) -> list[int]:
    """Return, for each time, the index of the nearest of others, or -1 where none is near enough.

    Args:
        times_s: In any order.
        of_s: Ascending.
        tolerance_s: Largest difference that counts as the same moment.
    """
    if not len(of_s):
        return [-1] * len(times_s)
    others = np.asarray(of_s, dtype=np.float64)
    after = np.searchsorted(others, times_s).clip(1, max(1, len(others) - 1))
    found = []
    for time_s, index in zip(times_s, after.tolist(), strict=True):
        near = min((index - 1, min(index, len(others) - 1)), key=lambda i: abs(others[i] - time_s))
        # Stamps are decimals with six digits: a difference of exactly the tolerance counts.
        found.append(near if abs(others[near] - time_s) <= tolerance_s + 1e-7 else -1)
    return found


def pairs(times_s: Sequence[float], of_s: Sequence[float], tolerance_s: float) -> list[int]:
    """Return what `nearest` does, each of the others given to the nearest time alone."""
    found = nearest(times_s, of_s, tolerance_s)
    best: dict[int, int] = {}
    for at, other in enumerate(found):
        if other < 0:
            continue
        rival = best.get(other)
        if rival is None or abs(times_s[at] - of_s[other]) < abs(times_s[rival] - of_s[other]):
            best[other] = at
    return [other if other >= 0 and best[other] == at else -1 for at, other in enumerate(found)]
