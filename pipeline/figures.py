"""How a run went over time: throughput, where the time went, what failed, what was slow or twice.

What is kept does not grow with the scenes of a unit, so that a driver's memory stays flat.
"""

import heapq
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vega3d.pipeline.results import UnitResult

_BINS = 60
_SLOWEST = 5
_WORKERS = 1024
"""Of which it is told what each did."""


@dataclass
class _Done:
    """What one worker did."""

    units: int = 0
    views: int = 0
    last_s: float = 0.0


@dataclass
class RunFigures:
    """Collects a run's results, and says how it goes and how it went."""

    workers: int
    _start: float = field(default_factory=lambda: time.monotonic())
    _at_s: list[float] = field(default_factory=list)
    _views: list[int] = field(default_factory=list)
    _stages: Counter[str] = field(default_factory=Counter)
    _reasons: Counter[str] = field(default_factory=Counter)
    _slowest: list[tuple[float, int, list[str]]] = field(default_factory=list)
    """A heap: seconds, unit, and its first scenes."""

    _by: dict[str, _Done] = field(default_factory=dict)
    _left_to_others: int = 0
    _twice: int = 0
    _wasted_s: float = 0.0

    def add(self, result: UnitResult) -> None:
        """Take a finished unit, now."""
        at_s, took_s = time.monotonic() - self._start, sum(result.seconds.values())
        views = 0 if result.by_others else result.views
        self._at_s.append(at_s)
        self._views.append(views)
        self._stages.update(result.seconds)
        self._reasons.update(result.failures.values())
        one = (took_s, result.unit, list(result.scene_ids[:8]))
        heapq.heappush(self._slowest, one)
        if len(self._slowest) > _SLOWEST:
            heapq.heappop(self._slowest)
        self._left_to_others += result.by_others
        self._twice += result.wasted_s > 0
        self._wasted_s += result.wasted_s
        if result.worker in self._by or len(self._by) < _WORKERS:
            done = self._by.setdefault(result.worker, _Done())
            done.units, done.views, done.last_s = done.units + 1, done.views + views, at_s

    def told(self) -> dict[str, Any]:
        """Return the figures as plain JSON.

        `throughput` has the views that came in each of 60 equal parts of the run at most;
        `stage_shares` what each stage has of all stages' seconds, which overlap; `efficiency` is
        the run's views a second over those of the compute stage alone on as many workers, None
        where nothing was computed. `waste` counts the units that were computed although another
        job, or another try, had them, and their seconds; `left_to_others` are those that another
        had committed, computed here or not.
        """
        wall_s = max(time.monotonic() - self._start, 1e-9)
        spent_s = sum(self._stages.values())
        compute_s = self._stages["compute"]
        return {
            "throughput": self._throughput(wall_s),
            "stage_shares": {name: s / spent_s for name, s in self._stages.items()}
            if spent_s
            else {},
            "failures_by_reason": dict(self._reasons.most_common()),
            "slowest_units": self.slowest(),
            "efficiency": compute_s / (wall_s * self.workers) if compute_s else None,
            "waste": {
                "units": self._twice,
                "seconds": self._wasted_s,
                "left_to_others": self._left_to_others,
            },
            "by_worker": {
                name: {"units": one.units, "views": one.views}
                for name, one in sorted(self._by.items())
                if name
            },
        }

    def now(self) -> dict[str, Any]:
        """Return what a person wants to see while it goes on, as plain JSON.

        `last_unit_s` is how long ago a unit ended; None where none has.
        """
        now_s = time.monotonic() - self._start
        recent_s = max(60.0, 3 * max((s for s, _, _ in self._slowest), default=0.0))
        busy = [name for name, one in self._by.items() if name and now_s - one.last_s < recent_s]
        return {
            "workers": self.workers,
            "workers_at_work": len(busy) or None,
            "units_done": len(self._at_s),
            "going_s": now_s,
            "last_unit_s": now_s - self._at_s[-1] if self._at_s else None,
            "wasted_s": self._wasted_s,
            "slowest_units": self.slowest(),
        }

    def slowest(self) -> list[dict[str, Any]]:
        """Return the units that took longest, with their first scenes."""
        return [
            {"unit": unit, "scenes": scenes, "seconds": seconds}
            for seconds, unit, scenes in sorted(self._slowest, reverse=True)
        ]

    def _throughput(self, wall_s: float) -> list[dict[str, float]]:
        bins = max(1, min(_BINS, math.ceil(wall_s)))
        views = [0] * bins
        for at_s, count in zip(self._at_s, self._views, strict=True):
            views[min(bins - 1, int(at_s / wall_s * bins))] += count
        return [{"until_s": wall_s * (i + 1) / bins, "views": n} for i, n in enumerate(views)]
