"""Heat maps over block and timestep: one a measure, for each store that has several of both.

The paper's Fig. 6 does the same with downstream results.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from vega3d.evaluate.intervals import Estimate
from vega3d.evaluate.metrics import centimetres
from vega3d.evaluate.summary import Row, Summary
from vega3d.evaluate.tables import DASH, Cell, cell, number

FEWEST = 2
"""Blocks, and timesteps, from which on a store's taps are a map."""


@dataclass(frozen=True, slots=True)
class HeatCell:
    """One tap's number; `heat` is where it lies between the map's least and largest, per cent."""

    text: str
    heat: float | None
    best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """One measure of one store over its blocks and timesteps."""

    label: str
    measure: str
    """In words."""
    metric: str
    timesteps: tuple[int, ...]
    rows: tuple[tuple[int, tuple[HeatCell, ...]], ...]
    """A block and its cells, last block first, as networks are drawn."""
    best_tap: str
    best: Cell
    estimate: Estimate


def measures(summary: Summary) -> dict[str, str]:
    """Return the measures of a map, name -> in words: 1 is best in each."""
    recalls = summary.config.score.recall_m
    middle = centimetres(recalls[len(recalls) // 2])
    offered = {
        "above_chance": "consistency above chance",
        "consistency": "raw consistency, as published",
        "centred_above_chance": "centred, above chance",
        "auroc": "AUROC of matching pairs",
        "centred_auroc": "AUROC, centred",
        f"recall_{middle}": f"recall within {middle.replace('cm', ' cm')}",
    }
    return {metric: told for metric, told in offered.items() if metric in summary.metrics}


def heat_maps(summary: Summary) -> Iterator[HeatMap]:
    """Yield the maps, store by store."""
    for label in dict.fromkeys(row.source.label for row in summary.rows):
        taps = {
            (row.block, row.timestep): row
            for row in summary.rows
            if row.source.label == label and row.block is not None and row.timestep is not None
        }
        blocks = sorted({block for block, _ in taps if block is not None}, reverse=True)
        timesteps = sorted({timestep for _, timestep in taps if timestep is not None})
        if min(len(blocks), len(timesteps)) < FEWEST:
            continue
        for metric, told in measures(summary).items():
            grid = [(block, [taps.get((block, k)) for k in timesteps]) for block in blocks]
            if found := _heat_map(label, metric, told, tuple(timesteps), grid):
                yield found


def _heat_map(
    label: str,
    metric: str,
    told: str,
    timesteps: tuple[int, ...],
    grid: list[tuple[int, list[Row | None]]],
) -> HeatMap | None:
    """Return one map; None where no tap has the number."""
    held = {
        row.tap: mean
        for _, rows in grid
        for row in rows
        if row is not None and (mean := row.mean(metric)) is not None
    }
    if not held:
        return None
    best = max(held, key=lambda tap: held[tap])
    low, span = min(held.values()), max(held.values()) - min(held.values())
    estimate = next(r for _, rows in grid for r in rows if r and r.tap == best).estimates[metric]

    def shown(row: Row | None) -> HeatCell:
        if row is None or row.tap not in held:
            return HeatCell(DASH, None, best=False)
        heat = 100 * (held[row.tap] - low) / span if span else 100.0
        return HeatCell(number(held[row.tap]), round(heat, 1), best=row.tap == best)

    return HeatMap(
        label=label,
        measure=told,
        metric=metric,
        timesteps=timesteps,
        rows=tuple((block, tuple(shown(row) for row in rows)) for block, rows in grid),
        best_tap=best,
        best=cell(estimate),
        estimate=estimate,
    )
