"""How a run went over time: throughput, where the time went, what failed, what was slow."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vega3d.pipeline.results import UnitResult

_BINS = 60
_SLOWEST = 5


class RunFigures:
    """Collects a run's results, and says in the end how it went."""

    def __init__(self, workers: int) -> None:
        """Note the start."""
        self._workers, self._start = workers, time.monotonic()
        self._done: list[tuple[float, UnitResult]] = []

    def add(self, result: UnitResult) -> None:
        """Take a finished unit, now."""
        self._done.append((time.monotonic() - self._start, result))

    def told(self) -> dict[str, Any]:
        """Return the figures as plain JSON.

        `throughput` has the views that came in each of 60 equal parts of the run at most;
        `stage_shares` what each stage has of all stages' seconds, which overlap; `efficiency` is
        the run's views a second over those of the compute stage alone on as many workers, None
        where nothing was computed.
        """
        wall_s = max(time.monotonic() - self._start, 1e-9)
        stages: dict[str, float] = {}
        reasons: Counter[str] = Counter()
        for _, result in self._done:
            for name, seconds in result.seconds.items():
                stages[name] = stages.get(name, 0.0) + seconds
            reasons.update(result.failures.values())
        spent_s = sum(stages.values())
        compute_s = stages.get("compute", 0.0)
        return {
            "throughput": self._throughput(wall_s),
            "stage_shares": {name: s / spent_s for name, s in stages.items()} if spent_s else {},
            "failures_by_reason": dict(reasons.most_common()),
            "slowest_units": [
                {"unit": result.unit, "scenes": list(result.scene_ids[:8]), "seconds": seconds}
                for seconds, result in self._slowest()
            ],
            "efficiency": compute_s / (wall_s * self._workers) if compute_s else None,
        }

    def _throughput(self, wall_s: float) -> list[Mapping[str, float]]:
        bins = max(1, min(_BINS, math.ceil(wall_s)))
        views = [0] * bins
        for at_s, result in self._done:
            views[min(bins - 1, int(at_s / wall_s * bins))] += result.views
        return [{"until_s": wall_s * (i + 1) / bins, "views": n} for i, n in enumerate(views)]

    def _slowest(self) -> list[tuple[float, UnitResult]]:
        took = [(sum(result.seconds.values()), result) for _, result in self._done]
        return sorted(took, key=lambda one: -one[0])[:_SLOWEST]
