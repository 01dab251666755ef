"""Units whose cause may pass: tried again after the others, and left to a later run in the end."""

import time
from collections import Counter
from dataclasses import dataclass, field

from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.transient import Pauses

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Between units that fail one after the other: what is away may come back meanwhile."""


@dataclass
class Attempts:
    """Counts the tries of each unit, and how long nothing has succeeded."""

    limit: int
    """Tries of one unit."""

    patience_s: float
    """Without one success for so long, what is left is not tried."""

    tries: Counter[int] = field(default_factory=Counter)
    reasons: dict[int, str] = field(default_factory=dict)
    _since_s: float = field(default_factory=time.monotonic)
    _pauses: Pauses | None = None

    def failed(self, unit: Unit, reason: str) -> bool:
        """Note a failure; returns whether the unit is to be tried again."""
        self.tries[unit.index] += 1
        self.reasons[unit.index] = reason
        self._pauses = self._pauses or Pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        return self.tries[unit.index] < self.limit and not self.exhausted

    def succeeded(self) -> None:
        """Note that something works."""
        self._since_s, self._pauses = time.monotonic(), None

    def pause_s(self) -> float:
        """Return how long to wait before the next try; 0 while things work."""
        return self._pauses.next_s() if self._pauses else 0.0

    @property
    def exhausted(self) -> bool:
        """True where trying on is no use."""
        return bool(self.reasons) and time.monotonic() - self._since_s > self.patience_s

    def told(self, unit: Unit) -> str:
        """Return why a unit is left to a later run."""
        if unit.index in self.reasons:
            return f"{self.reasons[unit.index]}; tried {self.tries[unit.index]} times"
        last = next(reversed(self.reasons.values()), "nothing answered")
        return f"not tried, because nothing succeeded for {self.patience_s:.0f} s: {last}"
