"""A score as a table on a terminal, as JSON, and as one self-contained page."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vega3d.evaluate.benchmarks.libero import wilson
from vega3d.evaluate.benchmarks.measures import Difference, Measure, Score
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.pages import page_of
from vega3d.pipeline.texts import safe_values

Intervals = Mapping[str, tuple[float, float]]
Differences = Mapping[str, Difference]

_CHARS = 300
"""Of a text that the page shows."""

_WORDS = {"scene": "scene", "scenes": "scenes", "query": "query", "queries": "queries"}
_OF_ROBOTS = {"scene": "task", "scenes": "tasks", "query": "episode", "queries": "episodes"}


def table(score: Score, between: Intervals, differences: Differences) -> str:
    """Return the measures as lines of text."""
    width = max((len(measure.name) for measure in score.measures), default=0)
    lines = [
        f"{score.benchmark}, protocol {score.protocol}: {len(score.queries)} queries in "
        f"{len({query.scene_id for query in score.queries})} scenes"
    ]
    if score.missing:
        lines.append(
            f"{len(score.missing)} queries have no prediction and count as wrong, such as "
            f"{', '.join(score.missing[:3])}"
        )
    for measure in score.measures:
        line = f"{measure.name:<{width}}  {_number(measure.value):>7}  {_between(measure, between)}"
        if measure.name in differences:
            line += f"   {_difference(differences[measure.name])}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def as_json(score: Score, between: Intervals, differences: Differences) -> dict[str, Any]:
    """Return the numbers as plain JSON; null where there is none."""
    return {
        "benchmark": score.benchmark,
        "protocol": score.protocol,
        "queries": len(score.queries),
        "missing": len(score.missing),
        "metrics": {name: _plain(value) for name, value in score.values.items()},
        "intervals": {name: [_plain(low), _plain(high)] for name, (low, high) in between.items()},
        "differences": {
            name: {
                "difference": _plain(found.difference),
                "low": _plain(found.low),
                "high": _plain(found.high),
                "p_value": _plain(found.p_value),
            }
            for name, found in differences.items()
        },
    }


def write(
    score: Score, between: Intervals, differences: Differences, out: str, *, worst: int
) -> dict[str, str]:
    """Write score.json and score.html into a folder; returns where they are."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = as_json(score, between, differences)
    places = {"json": folder / "score.json", "html": folder / "score.html"}
    write_whole(places["json"], (json.dumps(safe_values(numbers), indent=1) + "\n").encode())
    words = _OF_ROBOTS if score.benchmark == "libero" else _WORDS
    count = len(score.queries)
    html = page_of(
        "vega3d.evaluate",
        "templates/benchmark.html",
        score=score,
        words=words,
        counted=f"{count} {words['query' if count == 1 else 'queries']}",
        rows=[_row(measure, between, differences, words["scene"]) for measure in score.measures],
        compared=bool(differences),
        tasks=_tasks(score),
        worst=_worst(score, worst),
    )
    write_whole(places["html"], html.encode())
    return {name: str(place) for name, place in places.items()}


def _row(
    measure: Measure, between: Intervals, differences: Differences, scene: str
) -> dict[str, Any]:
    found = differences.get(measure.name)
    low, high = between[measure.name]
    return {
        "metric": measure.metric,
        "group": measure.group,
        "queries": int(measure.statistics.any(axis=1).sum()),
        "value": _number(measure.value),
        "bar": max(0.0, min(100.0, measure.value)) if math.isfinite(measure.value) else 0.0,
        "interval": f"{_number(low)} to {_number(high)}" if math.isfinite(low) else f"one {scene}",
        "difference": _difference(found) if found else "",
    }


def _tasks(score: Score) -> list[dict[str, Any]]:
    """Return LIBERO's tasks with Wilson intervals; nothing for the others."""
    if score.benchmark != "libero":
        return []
    tasks = []
    for name in dict.fromkeys(query.scene_id for query in score.queries):
        outcomes = [query.worth for query in score.queries if query.scene_id == name]
        low, high = wilson(int(sum(outcomes)), len(outcomes))
        tasks.append(
            {
                "task": name,
                "episodes": len(outcomes),
                "success": _number(100 * sum(outcomes) / len(outcomes)),
                "interval": f"{_number(100 * low)} to {_number(100 * high)}",
            }
        )
    return tasks


def _worst(score: Score, count: int) -> list[dict[str, str]]:
    """Return the worst answers, taking turns among the question types."""
    by_kind: dict[str, list[Any]] = {}
    for query in sorted(score.queries, key=lambda query: query.worth):
        if query.worth < 1:
            by_kind.setdefault(query.kind, []).append(query)
    turns: list[Any] = []
    while len(turns) < count and any(by_kind.values()):
        turns += [queries.pop(0) for queries in by_kind.values() if queries]
    return [
        {
            "kind": query.kind,
            "scene": query.scene_id,
            "question": _cut(query.question),
            "truth": _cut(query.truth),
            "answer": _cut(query.answer) or "(none)",
            "worth": f"{query.worth:.2f}",
        }
        for query in turns[:count]
    ]


def _between(measure: Measure, between: Intervals) -> str:
    low, high = between[measure.name]
    if not math.isfinite(low):
        return "(one scene: no interval)"
    return f"({_number(low)} to {_number(high)})"


def _difference(found: Difference) -> str:
    return (
        f"{found.difference:+.2f} ({_number(found.low)} to {_number(found.high)}), "
        f"p = {found.p_value:.3g}"
    )


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cut(text: str) -> str:
    return text if len(text) <= _CHARS else f"{text[:_CHARS]}..."
