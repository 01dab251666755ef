"""Stragglers: a run's last units, started a second time where a worker has nothing else to do.

Shards and commits are create-only, so two workers may do one unit: the first to commit wins, and
the other's work is waste, which is counted.
"""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vega3d.cluster.member import Member
from vega3d.pipeline.store.units import Unit

PATIENCE = 2.0
"""A unit is started again when it has taken so many times what the others took in the middle."""

LEAST_S = 2.0


@dataclass
class Stragglers:
    """Who does what since when, and how long units take."""

    took_s: list[float] = field(default_factory=list)
    since_s: dict[Any, float] = field(default_factory=dict)
    copies: Counter[int] = field(default_factory=Counter)
    """Of units that were started again."""

    done: set[int] = field(default_factory=set)
    wasted_s: float = 0.0
    _middle: tuple[int, float] = (0, 0.0)
    """Of so many units, what they took in the middle."""

    def begun(self, member: Member) -> None:
        """Note when each unit of an actor was given to it, or came first there."""
        for ref in member.running:
            self.since_s.setdefault(ref, time.monotonic())

    def ended(self, ref: Any, unit: Unit, *, well: bool) -> bool:  # noqa: ANN401 - Ray's
        """Note the end of a call; returns whether somebody else has done the unit already."""
        taken_s = time.monotonic() - self.since_s.pop(ref, time.monotonic())
        if unit.index in self.done:
            self.wasted_s += taken_s
            return True
        if well:
            self.took_s.append(taken_s)
            self.done.add(unit.index)
        return False

    def to_repeat(self, team: Sequence[Member]) -> Unit | None:
        """Return the unit that is to be started a second time, if one takes too long."""
        if not self.took_s:
            return None
        if len(self.took_s) != self._middle[0]:
            self._middle = len(self.took_s), statistics.median(self.took_s)
        limit_s = max(LEAST_S, PATIENCE * self._middle[1])
        late = [
            (self.since_s.get(ref, time.monotonic()), unit)
            for member in team
            for ref, unit in member.running.items()
            if unit.index not in self.done and not self.copies[unit.index]
        ]
        since_s, unit = min(late, key=lambda one: one[0], default=(0.0, None))
        if unit is None or time.monotonic() - since_s < limit_s:
            return None
        self.copies[unit.index] += 1
        return unit

    def abandoned_s(self) -> float:
        """Return what was wasted, with what is under way and no longer needed."""
        now = time.monotonic()
        return self.wasted_s + sum(now - since_s for since_s in self.since_s.values())
