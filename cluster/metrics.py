"""Metrics of a run, through Ray's own Prometheus endpoint: `grafana.json` beside draws them.

All are set by the driver from what comes back, so that a worker does nothing for them. Memory of
GPUs, and what nodes do, are metrics of Ray itself.
"""

import re

from ray.util.metrics import Counter, Gauge, Histogram

from vega3d.pipeline.results import UnitResult

NAMES = (
    "vega3d_views",
    "vega3d_units",
    "vega3d_failed_scenes",
    "vega3d_retries",
    "vega3d_stage_seconds",
    "vega3d_waiting_units",
    "vega3d_workers_up",
)

_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]
_REASONS = 32
"""Different reasons at most: each is a series of its own for ever."""


class RunMetrics:
    """What one driver tells Prometheus; needs a Ray that is connected."""

    def __init__(self) -> None:
        """Register the metrics."""
        self._views = Counter("vega3d_views", "Views committed.")
        self._units = Counter("vega3d_units", "Units committed.")
        self._failed = Counter("vega3d_failed_scenes", "Scenes that failed.", ("reason",))
        self._retries = Counter("vega3d_retries", "Units that were tried again.")
        self._stages = Histogram(
            "vega3d_stage_seconds", "Seconds of a unit's stage.", _SECONDS, ("stage",)
        )
        self._waiting = Gauge("vega3d_waiting_units", "Units that nobody works on yet.")
        self._up = Gauge("vega3d_workers_up", "Workers that answer.")
        self._reasons: set[str] = set()

    def result(self, result: UnitResult) -> None:
        """Count a finished unit."""
        if result.postponed:
            return
        self._units.inc()
        if result.views:
            self._views.inc(result.views)
        for reason in result.failures.values():
            self._failed.inc(1, {"reason": self._bounded(reason)})
        for stage, seconds in result.seconds.items():
            self._stages.observe(max(seconds, 1e-9), {"stage": stage})

    def retried(self) -> None:
        """Count a unit that is tried again."""
        self._retries.inc()

    def look(self, waiting: int, up: int) -> None:
        """Tell how many units wait, and how many workers there are."""
        self._waiting.set(waiting)
        self._up.set(up)

    def _bounded(self, reason: str) -> str:
        """Return a reason without what differs from scene to scene."""
        short = re.sub(r"\d+", "N", reason.rpartition(": ")[2])[:60]
        if short not in self._reasons and len(self._reasons) >= _REASONS:
            return "other"
        self._reasons.add(short)
        return short
