"""From the partial results of units to the rows of a report, in a fixed order.

Means are over the scenes that every row has a score for, so that all rows speak of the same places.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vega3d.evaluate.config import ReportConfig
from vega3d.evaluate.intervals import Estimate, estimates
from vega3d.evaluate.matching import RecallCounts, Separation
from vega3d.evaluate.partials import Partials
from vega3d.evaluate.proof import Proof, prove, warnings
from vega3d.evaluate.records import StoreRecords, collect
from vega3d.evaluate.sources import Comparison, Source, some, tap_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of feature: a store and a tap."""

    records: StoreRecords
    tap: str
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
    def source(self) -> Source:
        """The store."""
        return self.records.source

    @property
    def name(self) -> str:
        """Store and tap."""
        label = self.source.label
        return label if label == self.tap else f"{label} {self.tap}"

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
    stores: tuple[StoreRecords, ...]
    """What was found in each store that is not refused, in the order asked for."""
    rows: tuple[Row, ...]
    """Best above chance first; rows without a score last."""
    common: tuple[str, ...]
    """Scenes with a score in every row."""
    left_out: Mapping[str, str]
    """Scene -> why it is in no mean."""
    refused: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    metrics: tuple[str, ...]
    proofs: tuple[Proof, ...]
    """Of each store: whether its scenes prove their own geometry."""

    @property
    def best_rows(self) -> tuple[Row, ...]:
        """The best row above chance of each store, best store first."""
        first = {row.source.label: row for row in reversed(self.rows)}
        return tuple(row for row in self.rows if first[row.source.label] is row)


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
    found = [collect(s, keys[s.label], partials) for s in comparison.sources]
    refused = [*comparison.refused, *_without_geometry(found), *_without_score(found)]
    kept = [records for records in found if records.source.label not in dict(refused)]
    common, left_out = _common_scenes(comparison, kept)
    values, metrics = _values(kept, common)
    proofs = prove([records.source for records in kept], comparison.views)
    rows = _rows(kept, common, values, metrics, config)
    return Summary(
        comparison=comparison,
        config=config,
        stores=tuple(kept),
        rows=tuple(rows),
        common=common,
        left_out=left_out,
        refused=tuple(refused),
        proofs=proofs,
        notes=(
            *comparison.notes,
            *warnings(proofs),
            *_unequal_pairs(kept, common),
            *_repeated_views(kept, common),
        ),
        metrics=metrics,
    )


def remarks(summary: Summary, most: int = 10) -> list[str]:
    """Return what a person should know before believing a report, a line each."""
    lines = [f"note: {note}" for note in summary.notes]
    lines += [f"refused {label}: {reason}" for label, reason in summary.refused]
    left_out = list(summary.left_out.items())
    lines += [f"left out {scene_id}: {reason}" for scene_id, reason in left_out[:most]]
    if len(left_out) > most:
        lines.append(f"left out {len(left_out) - most} scenes more; report.json names them")
    if summary.stores and not summary.common:
        lines.append(
            "no scene has a score: extract more or closer views (--views), or compare in larger "
            "voxels (--voxel-m)"
        )
    return lines


def _without_geometry(found: Sequence[StoreRecords]) -> Iterator[tuple[str, str]]:
    """Name the stores in which no scene has a single valid token, and those not read at all."""
    for records in found:
        if not records.scene_row:
            reasons = some(list(dict.fromkeys(records.failures.values())))
            yield records.source.label, f"no scene of it could be scored: {reasons}"
        elif not any(
            records.counted(tap, "num_tokens", records.scene_row).any() for tap in records.counts
        ):
            reason = "its scenes have no depth or no poses"
            yield records.source.label, f"no token has a world position: {reason}"


def _without_score(found: Sequence[StoreRecords]) -> Iterator[tuple[str, str]]:
    """Name the stores that would leave no common scene: without a score, or for others only."""
    blind = dict(_without_geometry(found))
    seeing = [records for records in found if records.source.label not in blind]
    scored = {records.source.label: _scored(records) for records in seeing}
    if not any(scored.values()):
        return
    common: set[str] = set()
    for records in seeing:
        mine = scored[records.source.label]
        if not mine:
            told = [reason for scenes in records.why_not.values() for reason in scenes.values()]
            reasons = dict.fromkeys([*told, *records.failures.values()])
            yield records.source.label, f"no scene of it has a score: {some(list(reasons))}"
        elif common and not common & mine:
            reason = "no scene has a score both in it and in the stores named before"
            yield records.source.label, reason
        else:
            common = common & mine if common else mine


def _scored(records: StoreRecords) -> set[str]:
    """Return the scenes that have a score with every tap of a store."""
    return set(records.scene_row).difference(*records.why_not.values())


def _common_scenes(
    comparison: Comparison, found: Sequence[StoreRecords]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the scenes every row has a score for, and why the others are not among them."""
    common, left_out = [], dict(comparison.left_out)
    for scene_id in comparison.views:
        reasons = []
        for records in found:
            told = {scenes[scene_id] for scenes in records.why_not.values() if scene_id in scenes}
            if scene_id in records.failures:
                told = {records.failures[scene_id]}
            reasons += [f"{records.source.label}: {reason}" for reason in sorted(told)]
        if reasons:
            left_out[scene_id] = "; ".join(reasons)
        elif found:
            common.append(scene_id)
    return tuple(common), left_out


def _values(
    found: Sequence[StoreRecords], common: Sequence[str]
) -> tuple[dict[tuple[str, str], np.ndarray], tuple[str, ...]]:
    """Return [scene, metric] of each row, NaN where a scene lacks the number; and the metrics."""
    metrics = tuple(dict.fromkeys(metric for records in found for metric in records.metrics))
    values = {}
    for records in found:
        columns = [metrics.index(metric) for metric in records.metrics]
        for tap in records.source.taps:
            table = np.full((len(common), len(metrics)), np.nan)
            table[:, columns] = records.values[tap][records.rows_of(common)]
            values[records.source.label, tap] = table
    return values, metrics


def _rows(
    found: Sequence[StoreRecords],
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
    for records in found:
        pooled = records.pool(common)
        for tap in records.source.taps:
            table = values[records.source.label, tap]
            gap = (table - values[best])[:, [column]] if best else np.empty((0, 1))
            row = Row(
                records=records,
                tap=tap,
                estimates=dict(zip(metrics, estimates(table, samples, seed), strict=True)),
                behind=estimates(gap, samples, seed)[0],
                separation=pooled[tap][0],
                recall=pooled[tap][1],
                counts=records.total_counts(tap, common),
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


def _unequal_pairs(found: Sequence[StoreRecords], common: Sequence[str]) -> list[str]:
    """Say where stores count different pairs for one scene: their valid tokens differ."""
    notes = []
    for records in found[1:]:
        if records.source.grid != found[0].source.grid or not common:
            continue
        here, there = (
            one.counted(one.source.taps[0], "num_pairs", common) for one in (records, found[0])
        )
        unlike = np.flatnonzero(here != there)
        if len(unlike):
            k = unlike[0]
            notes.append(
                f"{records.source.label} and {found[0].source.label} do not have the same valid "
                f"tokens in {len(unlike)} of {len(common)} scenes (in {common[k]}: {here[k]} and "
                f"{there[k]} voxel-view-pairs): a crop hides some, or depth differs."
            )
    return notes


def _repeated_views(found: Sequence[StoreRecords], common: Sequence[str]) -> Iterator[str]:
    """Say where a store holds views twice: they are in no pair."""
    for records in found:
        counts = records.counted(records.source.taps[0], "num_repeated_views", common)
        if counts.any():
            k = int(counts.argmax())
            yield (
                f"{records.source.label} holds {counts.sum()} views whose tokens lie exactly where "
                f"another view's do ({counts[k]} of them in {common[k]}): views that came twice "
                "are in no pair."
            )
