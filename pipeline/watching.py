"""`status --watch`: what a store tells of a run that goes on, as a live table or plain lines.

All comes from the store, so it can be watched from anywhere: rate and the time that is left from
what was committed between two looks; workers and the slowest units from what each run says of
itself every 10 s, or the last that has ended.
"""

import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.objects import open_objects
from vega3d.pipeline.store.records import LIVE, LIVE_FOR_S, RUNS, SUMMARY
from vega3d.pipeline.texts import safe

if TYPE_CHECKING:
    from rich.table import Table

_LOOKS = 60
"""Looks over which the rate is taken."""

_RUNS_SHOWN = 4
_SILENT_S = 60.0
"""So long after a unit ended it is said how long ago that was."""


@dataclass
class Watch:
    """A store that is looked at again and again."""

    looks: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=_LOOKS))
    """When, and how many scenes and views were committed or failed."""

    def look(self, found: Mapping[str, Any]) -> None:
        """Take what `status` found, now."""
        done = found["scenes"] - found["pending"]
        self.looks.append((time.monotonic(), done, found["views"]))

    def rates(self) -> tuple[float, float]:
        """Return scenes and views a second between the first and the last look; 0 at first."""
        (start, scenes, views), (end, more_scenes, more_views) = self.looks[0], self.looks[-1]
        passed_s = end - start
        if not passed_s:
            return 0.0, 0.0
        return (more_scenes - scenes) / passed_s, (more_views - views) / passed_s

    def rows(self, found: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return what is shown, name by name."""
        scenes_per_s, views_per_s = self.rates()
        done = found["scenes"] - found["pending"]
        left = "nothing is left"
        if found["pending"]:
            left = _clock(found["pending"] / scenes_per_s) if scenes_per_s else "not known yet"
        rows = [
            (
                "scenes",
                f"{done} of {found['scenes']} ({100 * done / max(1, found['scenes']):.1f} %)",
            ),
            ("units", f"{found['units_committed']} of {found['units']}"),
            ("stored", f"{found['stored_bytes'] / 1e6:.1f} MB, {found['views']} views"),
            ("rate", f"{3600 * scenes_per_s:.0f} scenes an hour, {views_per_s:.2f} views/s"),
            ("time left", left),
        ]
        for one in found.get("runs", ()):
            rows.append(("run", _of_run(one)))
        for reason, count in Counter(found["failures"].values()).most_common(8):
            rows.append(("failed", f"{count}: {reason}"))
        for one in found.get("slowest_units", ()):
            rows.append(("slow", f"{one['seconds']:.1f} s: {', '.join(one['scenes'][:3])}"))
        return [(name, safe(value)) for name, value in rows]

    def table(self, found: Mapping[str, Any]) -> "Table":
        """Return the rows as a table of rich; names that others chose are no markup."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(safe(found["store"])), show_header=False)
        for name, value in self.rows(found):
            table.add_row(Text(name), Text(value))
        return table


def _of_run(one: Mapping[str, Any]) -> str:
    """Say how a run goes that is under way."""
    at_work = one.get("workers_at_work")
    if at_work:
        told = f"{at_work} of {one['workers']} workers at work"
    else:  # those of Ray are known by what they have done
        told = "one process" if one["workers"] == 1 else f"{one['workers']} workers asked for"
    told += f", {one['units_done']} units done in {_clock(one['going_s'])}"
    if one["last_unit_s"] is not None and one["last_unit_s"] > _SILENT_S:
        told += f", the last {_clock(one['last_unit_s'])} ago"
    if one["wasted_s"]:
        told += f", {one['wasted_s']:.0f} s done twice"
    return f"{told} ({one['age_s']:.0f} s ago)"


def live(url: str) -> dict[str, Any]:
    """Return what runs that are under way say of themselves, and the slowest units.

    Where none is, the slowest units are those of the last run that ended.
    """
    objects, runs, slow = open_objects(url), [], []
    for key in objects.keys(f"{RUNS}/"):
        if not key.endswith(LIVE):
            continue
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError, StoreError):
            told = json.loads(objects.read(key, 1 << 20))
            age_s = max(0.0, time.time() - float(told["time"]))
            if age_s < LIVE_FOR_S:
                run = {name: told[name] for name in ("workers", "workers_at_work", "units_done")}
                last_s = told["last_unit_s"]
                times = {
                    "going_s": float(told["going_s"]),
                    "last_unit_s": None if last_s is None else float(last_s),
                    "wasted_s": float(told["wasted_s"]),
                }
                runs.append({**run, **times, "age_s": age_s})
                slow += _slow(told)
    if not runs:
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError, StoreError):
            slow = _slow(json.loads(objects.read(SUMMARY, 1 << 26))["figures"])
    slow.sort(key=lambda one: -one["seconds"])
    return {"runs": runs[:_RUNS_SHOWN], "slowest_units": slow[:5]}


def _slow(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"seconds": float(one["seconds"]), "scenes": [str(name) for name in one["scenes"]]}
        for one in told["slowest_units"]
    ]


def _clock(seconds: float) -> str:
    minutes, rest_s = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest_s:02d}"
