"""What the units of one store gave: numbers as tables in memory, everything else on disk.

A scene costs a few hundred bytes here, whatever is known of it; its full record is read from the
partial result of its unit when somebody asks.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vega3d.evaluate.matching import RecallCounts, Separation
from vega3d.evaluate.partials import Partials, array_name
from vega3d.evaluate.sources import Source

Record = Mapping[str, Any]
"""What units.score_unit says of a scene with one kind of feature."""

Pooled = tuple[dict[str, Separation], dict[str, RecallCounts]]
"""Similarity histograms and correspondence counts, each by treatment."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoreRecords:
    """Every scene of a store that was scored, those without overlap included."""

    source: Source
    partials: Partials
    keys: tuple[str, ...]
    """Partial results, in the order of the units."""
    scene_row: Mapping[str, int]
    """Scene -> its row in the tables, in the order of the units."""
    failures: Mapping[str, str]
    """Scene -> why it could not be read or scored."""
    why_not: Mapping[str, Mapping[str, str]]
    """Tap -> scene -> why it has no score; scenes with one are not in it."""
    centred_on: frozenset[str]
    """Where means and deviations came from: `other scenes`, `this scene`."""
    metrics: tuple[str, ...]
    count_names: tuple[str, ...]
    values: Mapping[str, Float[np.ndarray, "S metrics"]]
    """By tap; NaN where a scene lacks the number."""
    counts: Mapping[str, Int[np.ndarray, "S counts"]]
    """By tap."""

    def read(self) -> Iterator[tuple[str, str, Record]]:
        """Yield scene, tap and record from disk, a unit at a time."""
        for key in self.keys:
            for scene_id, taps in self.partials.plain(key)["scenes"].items():
                for tap, record in taps.items():
                    yield scene_id, tap, record

    def rows_of(self, scenes: Iterable[str]) -> Int[np.ndarray, " rows"]:
        """Return the table rows of scenes."""
        return np.array([self.scene_row[scene_id] for scene_id in scenes], dtype=np.int64)

    def counted(self, tap: str, name: str, scenes: Iterable[str]) -> Int[np.ndarray, " rows"]:
        """Return one count of each of the scenes."""
        found: np.ndarray = self.counts[tap][self.rows_of(scenes), self.count_names.index(name)]
        return found

    def total_counts(self, tap: str, scenes: Iterable[str]) -> dict[str, int]:
        """Return each count, summed over scenes."""
        sums = self.counts[tap][self.rows_of(scenes)].sum(axis=0)
        return dict(zip(self.count_names, sums.tolist(), strict=True))

    def value(self, tap: str, metric: str, scene_id: str) -> float | None:
        """Return one number of a scene; None where it lacks it."""
        number = float(self.values[tap][self.scene_row[scene_id], self.metrics.index(metric)])
        return None if np.isnan(number) else number

    def pool(self, scenes: Iterable[str]) -> dict[str, Pooled]:
        """Add up histograms and correspondence counts over scenes, by tap."""
        wanted = set(scenes)
        pooled: dict[str, Pooled] = {tap: ({}, {}) for tap in self.source.taps}
        for key in self.keys:
            arrays = self.partials.arrays(key)
            for name in arrays:
                scene_id, tap, treatment, kind = json.loads(name)
                if kind == "matched" and scene_id in wanted:
                    _add(pooled[tap], treatment, arrays, (scene_id, tap, treatment))
        return pooled


def collect(source: Source, keys: Sequence[str], partials: Partials) -> StoreRecords:
    """Read the partial results of a store's units into tables."""
    scene_row: dict[str, int] = {}
    failures: dict[str, str] = {}
    why_not: dict[str, dict[str, str]] = {tap: {} for tap in source.taps}
    centred_on: set[str] = set()
    metrics: tuple[str, ...] = ()
    count_names: tuple[str, ...] = ()
    values: dict[str, list[np.ndarray]] = {tap: [] for tap in source.taps}
    counts: dict[str, list[np.ndarray]] = {tap: [] for tap in source.taps}
    for key in keys:
        plain = partials.plain(key)
        failures |= plain["failures"]
        for scene_id, taps in plain["scenes"].items():
            if scene_id in failures:
                continue  # a later tap of it could not be read
            scene_row[scene_id] = len(scene_row)
            for tap, record in taps.items():
                metrics = metrics or tuple(record["metrics"])
                count_names = count_names or tuple(record["counts"])
                numbers = [record["metrics"][name] for name in metrics]
                values[tap].append(np.array(numbers, dtype=np.float64))  # None becomes NaN
                counts[tap].append(np.array([record["counts"][name] for name in count_names]))
                centred_on.add(record["centred_on"])
                if reason := _why_not(record):
                    why_not[tap][scene_id] = reason
    return StoreRecords(
        source=source,
        partials=partials,
        keys=tuple(keys),
        scene_row=scene_row,
        failures=failures,
        why_not=why_not,
        centred_on=frozenset(centred_on),
        metrics=metrics,
        count_names=count_names,
        values={tap: _stacked(rows, len(metrics), np.float64) for tap, rows in values.items()},
        counts={tap: _stacked(rows, len(count_names), np.int64) for tap, rows in counts.items()},
    )


def _stacked(rows: Sequence[np.ndarray], columns: int, dtype: type) -> np.ndarray:
    return np.stack(rows) if rows else np.zeros((0, columns), dtype=dtype)


def _why_not(record: Record) -> str:
    """Say why a scene has no score above chance with one kind of feature; empty when it has."""
    reason = str(record["reason"])
    if not reason and record["metrics"]["above_chance"] is None:
        return "no pairs that do not match (one shared voxel), so no chance level"
    return reason


def _add(
    pooled: Pooled, treatment: str, arrays: Mapping[str, np.ndarray], place: tuple[str, str, str]
) -> None:
    """Add one scene's arrays to the sums."""
    separations, recalls = pooled
    separation = Separation(*(arrays[array_name(*place, k)] for k in ("matched", "other")))
    recall = RecallCounts(*(arrays[array_name(*place, k)] for k in ("by_rotation", "by_overlap")))
    if treatment in separations:
        separation, recall = separations[treatment] + separation, recalls[treatment] + recall
    separations[treatment], recalls[treatment] = separation, recall
