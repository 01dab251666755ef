"""From the partial results of units to the rows of a report, in a fixed order.

Means are over the scenes that every row has a score for, so that all rows speak of the same places.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vega3d.evaluate.config import ReportConfig
from vega3d.evaluate.intervals import Estimate, estimates
from vega3d.evaluate.matching import RecallCounts, Separation
from vega3d.evaluate.partials import Partials, array_name
from vega3d.evaluate.sources import Comparison, Source, some, tap_numbers

SceneRecords = Mapping[str, Mapping[str, Any]]
"""Scene -> what units.score_unit says of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of feature: a store and a tap."""

    source: Source
    tap: str
    records: SceneRecords
    """Every scene that was scored, those without overlap included."""
    estimates: Mapping[str, Estimate]
    """By metric: the mean over the common scenes."""
    behind: Estimate
    """Above chance, minus that of the best row, scene by scene."""
    separation: Mapping[str, Separation]
    recall: Mapping[str, RecallCounts]
    """By treatment, summed over the common scenes."""
    counts: Mapping[str, int]
    """Summed over the common scenes."""

    @property
    def name(self) -> str:
        """Store and tap."""
        return f"{self.source.label} {self.tap}"

    @property
    def block(self) -> int | None:
        """The tap's block."""
        return tap_numbers(self.tap)[0]

    @property
    def timestep(self) -> int | None:
        """The tap's timestep."""
        return tap_numbers(self.tap)[1]

    def mean(self, metric: str) -> float | None:
        """Return the mean of a metric; None where no scene has it."""
        found = self.estimates.get(metric)
        return found.mean if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Everything a report shows, but the pictures."""

    comparison: Comparison
    config: ReportConfig
    rows: tuple[Row, ...]
    """Best above chance first; rows without a score last."""
    common: tuple[str, ...]
    """Scenes with a score in every row."""
    left_out: Mapping[str, str]
    """Scene -> why it is in no mean."""
    refused: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def best_rows(self) -> tuple[Row, ...]:
        """The best row above chance of each store, best store first."""
        first = {row.source.label: row for row in reversed(self.rows)}
        return tuple(row for row in self.rows if first[row.source.label] is row)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the units of one store gave."""

    source: Source
    keys: Sequence[str]
    scenes: dict[str, Mapping[str, Any]]
    """Scene -> tap -> record."""
    failures: dict[str, str]


def summarize(
    comparison: Comparison,
    keys: Mapping[str, Sequence[str]],
    partials: Partials,
    config: ReportConfig,
) -> Summary:
    """Reduce partial results to rows.

    Args:
        comparison: What was scored.
        keys: By label: the partial results of the store's units, in the order of the units.
        partials: Where they are.
        config: Settings of the intervals.
    """
    found = [_collect(s, keys[s.label], partials) for s in comparison.sources]
    refused = [*comparison.refused, *_without_geometry(found), *_without_score(found)]
    kept = [f for f in found if f.source.label not in dict(refused)]
    common, left_out = _common_scenes(comparison, kept)
    values, metrics = _values(kept, common)
    rows = _rows(kept, partials, common, values, metrics, config)
    return Summary(
        comparison=comparison,
        config=config,
        rows=tuple(rows),
        common=common,
        left_out=left_out,
        refused=tuple(refused),
        notes=(*comparison.notes, *_unequal_pairs(kept, common)),
        metrics=metrics,
    )


def _collect(source: Source, keys: Sequence[str], partials: Partials) -> _Found:
    scenes: dict[str, Mapping[str, Any]] = {}
    failures: dict[str, str] = {}
    for key in keys:
        plain = partials.plain(key)
        scenes |= plain["scenes"]
        failures |= plain["failures"]
    return _Found(source, keys, scenes, failures)


def _without_geometry(found: Sequence[_Found]) -> Iterator[tuple[str, str]]:
    """Name the stores in which no scene has a single valid token."""
    for f in found:
        counts = [
            record["counts"]["num_tokens"] for taps in f.scenes.values() for record in taps.values()
        ]
        if not any(counts):
            reason = next(iter(f.failures.values()), "its scenes have no depth or no poses")
            yield f.source.label, f"no token has a world position: {reason}"


def _without_score(found: Sequence[_Found]) -> Iterator[tuple[str, str]]:
    """Name the stores that would leave no common scene: without a score, or for others only."""
    blind = dict(_without_geometry(found))
    seeing = [f for f in found if f.source.label not in blind]
    scored = {f.source.label: _scored(f) for f in seeing}
    if not any(scored.values()):
        return
    common: set[str] = set()
    for f in seeing:
        mine = scored[f.source.label]
        if not mine:
            told = [_why_not(record) for taps in f.scenes.values() for record in taps.values()]
            reasons = dict.fromkeys(filter(None, [*told, *f.failures.values()]))
            yield f.source.label, f"no scene of it has a score: {some(list(reasons))}"
        elif common and not common & mine:
            yield f.source.label, "no scene has a score both in it and in the stores named before"
        else:
            common = common & mine if common else mine


def _scored(found: _Found) -> set[str]:
    """Return the scenes that have a score with every tap of a store."""
    return {
        scene_id
        for scene_id, taps in found.scenes.items()
        if scene_id not in found.failures and not any(map(_why_not, taps.values()))
    }


def _common_scenes(
    comparison: Comparison, found: Sequence[_Found]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the scenes every row has a score for, and why the others are not among them."""
    common, left_out = [], dict(comparison.left_out)
    for scene_id in comparison.views:
        reasons = []
        for f in found:
            if scene_id in f.failures:
                reasons.append(f"{f.source.label}: {f.failures[scene_id]}")
                continue
            told = {_why_not(record) for record in f.scenes[scene_id].values()} - {""}
            reasons += [f"{f.source.label}: {reason}" for reason in sorted(told)]
        if reasons:
            left_out[scene_id] = "; ".join(reasons)
        elif found:
            common.append(scene_id)
    return tuple(common), left_out


def _why_not(record: Mapping[str, Any]) -> str:
    """Say why a scene has no score above chance with one kind of feature; empty when it has."""
    reason = str(record["reason"])
    if not reason and record["metrics"]["above_chance"] is None:
        return "no pairs that do not match (one shared voxel), so no chance level"
    return reason


def _values(
    found: Sequence[_Found], common: Sequence[str]
) -> tuple[dict[tuple[str, str], np.ndarray], tuple[str, ...]]:
    """Return [scene, metric] of each row, NaN where a scene lacks the number; and the metrics."""
    metrics: dict[str, None] = {}
    for f in found:
        for taps in f.scenes.values():
            for record in taps.values():
                metrics |= dict.fromkeys(record["metrics"])
    values = {}
    for f in found:
        for tap in f.source.taps:
            table = np.full((len(common), len(metrics)), np.nan)
            for i, scene_id in enumerate(common):
                numbers = f.scenes[scene_id][tap]["metrics"]
                for k, metric in enumerate(metrics):
                    if (number := numbers.get(metric)) is not None:
                        table[i, k] = number
            values[f.source.label, tap] = table
    return values, tuple(metrics)


def _rows(
    found: Sequence[_Found],
    partials: Partials,
    common: Sequence[str],
    values: Mapping[tuple[str, str], np.ndarray],
    metrics: Sequence[str],
    config: ReportConfig,
) -> list[Row]:
    """Return the rows, ranked; every row is resampled with the same scenes."""
    samples, seed = config.bootstrap_samples, config.bootstrap_seed
    column = metrics.index("above_chance") if metrics else 0
    best = _best(values, column)
    rows = []
    for f in found:
        pooled = _pool(f, partials, set(common), config)
        for tap in f.source.taps:
            table = values[f.source.label, tap]
            gap = (table - values[best])[:, [column]] if best else np.empty((0, 1))
            row = Row(
                source=f.source,
                tap=tap,
                records={s: taps[tap] for s, taps in f.scenes.items() if tap in taps},
                estimates=dict(zip(metrics, estimates(table, samples, seed), strict=True)),
                behind=estimates(gap, samples, seed)[0],
                separation=pooled[tap][0],
                recall=pooled[tap][1],
                counts=_total_counts([f.scenes[s][tap]["counts"] for s in common]),
            )
            rows.append(row)
    return sorted(rows, key=lambda row: -_order(row.mean("above_chance")))


def _best(values: Mapping[tuple[str, str], np.ndarray], column: int) -> tuple[str, str] | None:
    """Return the row of largest mean above chance."""
    means = {
        key: float(table[:, column].mean())
        for key, table in values.items()
        if table.size and not np.isnan(table[:, column]).any()
    }
    return max(means, key=lambda key: means[key]) if means else None


def _order(mean: float | None) -> float:
    return -np.inf if mean is None else mean


def _pool(
    found: _Found, partials: Partials, common: set[str], config: ReportConfig
) -> dict[str, tuple[dict[str, Separation], dict[str, RecallCounts]]]:
    """Add up the histograms and correspondence counts of the common scenes, by tap."""
    pooled: dict[str, tuple[dict[str, Separation], dict[str, RecallCounts]]] = {
        tap: ({}, {}) for tap in found.source.taps
    }
    for key in found.keys:
        arrays = partials.arrays(key)
        for name in arrays:
            *place, kind = json.loads(name)
            scene_id, tap, treatment = place
            if kind != "matched" or scene_id not in common:
                continue
            separations, recalls = pooled[tap]
            separation = Separation(*(arrays[array_name(*place, k)] for k in ("matched", "other")))
            recall = RecallCounts(
                *(arrays[array_name(*place, k)] for k in ("by_rotation", "by_overlap"))
            )
            if treatment in separations:
                separation, recall = (
                    separations[treatment] + separation,
                    recalls[treatment] + recall,
                )
            separations[treatment], recalls[treatment] = separation, recall
    return pooled


def _total_counts(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = counts[0] if counts else {}
    return {name: sum(one[name] for one in counts) for name in names}


def _unequal_pairs(found: Sequence[_Found], common: Sequence[str]) -> list[str]:
    """Say where stores count different pairs for one scene: their valid tokens differ."""
    notes = []
    for f in found[1:]:
        if f.source.grid != found[0].source.grid:
            continue
        unlike = [s for s in common if _num_pairs(f, s) != _num_pairs(found[0], s)]
        if unlike:
            first, here = (_num_pairs(one, unlike[0]) for one in (found[0], f))
            notes.append(
                f"{f.source.label} and {found[0].source.label} do not have the same valid tokens "
                f"in {len(unlike)} of {len(common)} scenes (in {unlike[0]}: {here} and {first} "
                "voxel-view-pairs): a crop hides some, or depth differs."
            )
    return notes


def _num_pairs(found: _Found, scene_id: str) -> int:
    return int(found.scenes[scene_id][found.source.taps[0]]["counts"]["num_pairs"])
