"""A report: stores in, report.html, report.json and scores.csv out. Open `report` first."""

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from vega3d.evaluate.config import ReportConfig, RunConfig, TapsConfig
from vega3d.evaluate.downstream import Results, read_results
from vega3d.evaluate.mapping import map_tasks
from vega3d.evaluate.page import render_page
from vega3d.evaluate.panels import MOST_PANELS, ScenePanel, scene_panel
from vega3d.evaluate.partials import Partial, Partials
from vega3d.evaluate.plain import scene_table, write_json
from vega3d.evaluate.progress import progress
from vega3d.evaluate.relations import relate_rows
from vega3d.evaluate.sources import Comparison, Source, open_sources, plan_comparison
from vega3d.evaluate.summary import Summary, summarize
from vega3d.evaluate.treatments import ChannelSums
from vega3d.evaluate.units import UnitTask, plan_tasks, score_unit, sum_unit
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import whole_file
from vega3d.pipeline.settings import FILE, as_toml
from vega3d.pipeline.texts import safe_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Where a report is and what it says."""

    html: Path
    json: Path
    csv: Path
    summary: Summary

    def result(self) -> dict[str, Any]:
        """Return the result of the command: where the report is, and its ranking."""
        return {
            "report": str(self.html),
            "json": str(self.json),
            "scores": str(self.csv),
            "scenes": len(self.summary.common),
            "above_chance": {row.name: row.mean("above_chance") for row in self.summary.rows},
            "consistency": {row.name: row.mean("consistency") for row in self.summary.rows},
            "reprojection_m": {proof.label: proof.median_m for proof in self.summary.proofs},
            "refused": dict(self.summary.refused),
            "left_out": len(self.summary.left_out),
        }


def report(
    stores: Sequence[str],
    out: str,
    config: ReportConfig | None = None,
    run: RunConfig | None = None,
    taps: TapsConfig | None = None,
    *,
    downstream: str = "",
    scenes: Sequence[str] = (),
) -> Report:
    """Score every store beside the others and write the report to the folder `out`.

    A second call goes on where an interrupted one stopped.

    Args:
        stores: Folders or URLs, each alone or as `label=url`; one label given twice is one store.
        out: Folder of report.html, report.json, scores.csv, config.toml and partials/.
        config: What decides the numbers.
        run: Where they are computed.
        taps: Which taps are scored; all without it.
        downstream: Path of a results table, or `paper`.
        scenes: Scenes to be drawn; the first few without it.

    Raises:
        UsageError: Nothing can be scored or compared; the message says why.
        StoreError: A store cannot be read.
    """
    config, run = config or ReportConfig(), run or RunConfig()
    results = read_results(downstream) if downstream else None
    sources = open_sources(stores, taps)
    _check_scenes(scenes, plan_comparison(sources))
    Path(out).mkdir(parents=True, exist_ok=True)
    with _whole(Path(out) / FILE) as file:
        file.write(as_toml(config, taps or TapsConfig(), run))
    partials = Partials(Path(out) / "partials")
    summary = score_sources(sources, config, run, partials)
    summary, drawable = _note_undrawable(summary, scenes)
    panels = draw_scenes(summary, drawable or _spread(summary.common, run.scenes_shown), run)
    return write_report(Path(out), summary, results, panels)


def score_sources(
    sources: Sequence[Source], config: ReportConfig, run: RunConfig, partials: Partials
) -> Summary:
    """Score every store on the scenes and views that all hold.

    A store that turns out to have nothing to compare is refused, and the others are planned again
    without it: it takes no scene and no view from them.
    """
    refused: list[tuple[str, str]] = []
    while True:
        comparison = plan_comparison(sources)
        keys = {
            source.label: score_store(source, comparison, config, run, partials)
            for source in comparison.sources
        }
        summary = summarize(comparison, keys, partials, config)
        late = dict(summary.refused[len(comparison.refused) :])
        if not late or len(late) == len(comparison.sources):
            return replace(summary, refused=(*refused, *summary.refused))
        refused += late.items()
        sources = [source for source in sources if source.label not in late]


def score_store(
    source: Source, comparison: Comparison, config: ReportConfig, run: RunConfig, partials: Partials
) -> list[str]:
    """Score the units of a store that have no partial result yet; return the keys of all."""
    tasks = plan_tasks(source, comparison, config)
    first = [task.key("sums") for task in tasks]
    _map(sum_unit, tasks, first, f"{source.label}, pass 1 of 2", run, partials)
    totals = _add_sums(source, first, partials)
    second = [task.key("scores", after=_digest(totals)) for task in tasks]
    score = partial(score_unit, totals=totals)
    _map(score, tasks, second, f"{source.label}, pass 2 of 2", run, partials)
    return second


def _map(
    function: Callable[[UnitTask], Partial],
    tasks: Sequence[UnitTask],
    keys: Sequence[str],
    label: str,
    run: RunConfig,
    partials: Partials,
) -> None:
    """Compute and keep the partial results that are not there yet."""
    missing = [k for k, key in enumerate(keys) if not partials.has(key)]
    keep = partial(_keep, partials, [keys[k] for k in missing])
    with progress(label, len(missing)) as step:
        map_tasks(function, [tasks[k] for k in missing], run, keep, step)


def _keep(partials: Partials, keys: Sequence[str], index: int, result: Partial) -> None:
    partials.write(keys[index], result)


def _add_sums(source: Source, keys: Sequence[str], partials: Partials) -> dict[str, ChannelSums]:
    """Add the channel sums of all units, in the order of the units."""
    totals = {
        tap: ChannelSums(0, np.zeros(source.channels[tap]), np.zeros(source.channels[tap]))
        for tap in source.taps
    }
    for key in keys:
        counts, arrays = partials.plain(key)["counts"], partials.arrays(key)
        for tap in source.taps:
            if counts[tap]:
                total, squares = arrays[f"{tap}/total"], arrays[f"{tap}/squares"]
                totals[tap] += ChannelSums(counts[tap], total, squares)
    return totals


def _digest(totals: Mapping[str, ChannelSums]) -> str:
    held = hashlib.sha256()
    for tap, sums in totals.items():
        held.update(f"{tap} {sums.count}\n".encode())
        held.update(sums.total.tobytes() + sums.squares.tobytes())
    return held.hexdigest()


def _check_scenes(scenes: Sequence[str], comparison: Comparison) -> None:
    absent = {s: comparison.left_out.get(s, "in no store") for s in scenes}
    absent = {s: reason for s, reason in absent.items() if s not in comparison.views}
    if absent:
        told = "; ".join(f"{scene!r} ({reason})" for scene, reason in absent.items())
        raise UsageError(
            f"scenes that are not in all stores cannot be drawn: {told}; "
            f"there are {len(comparison.views)}, such as {list(comparison.views)[:3]}"
        )


def _note_undrawable(summary: Summary, scenes: Sequence[str]) -> tuple[Summary, list[str]]:
    """Return which scenes could be read, and the report with a note on each of the others."""
    reasons = {
        scene_id: row.records.failures[scene_id]
        for row in summary.best_rows
        for scene_id in scenes
        if scene_id in row.records.failures
    }
    notes = [f"{scene_id} is not drawn: {reason}." for scene_id, reason in reasons.items()]
    drawable = [scene_id for scene_id in scenes if scene_id not in reasons]
    return replace(summary, notes=(*summary.notes, *notes)), drawable


def _spread(scenes: Sequence[str], most: int) -> list[str]:
    """Choose scenes spread evenly over all."""
    chosen = np.unique(np.linspace(0, len(scenes) - 1, min(most, len(scenes))).astype(int))
    return [scenes[k] for k in chosen]


def draw_scenes(summary: Summary, scenes: Sequence[str], run: RunConfig) -> list[ScenePanel]:
    """Draw scenes for the best tap of each store."""
    rows = summary.best_rows[:MOST_PANELS]
    return [
        scene_panel(
            rows, scene_id, summary.comparison.views[scene_id], run.views_shown, summary.config
        )
        for scene_id in scenes
        if rows
    ]


def write_report(
    out: Path, summary: Summary, results: Results | None, panels: Sequence[ScenePanel]
) -> Report:
    """Write the three files."""
    out.mkdir(parents=True, exist_ok=True)
    related = relate_rows(summary, results) if results else None
    written = Report(
        html=out / "report.html",
        json=out / "report.json",
        csv=out / "scores.csv",
        summary=summary,
    )
    with _whole(written.json) as file:
        write_json(file, summary, related)
    with _whole(written.csv) as file:
        csv.writer(file).writerows(safe_values(row) for row in scene_table(summary))
    with _whole(written.html) as file:
        file.write(render_page(summary, related, panels))
    return written


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """Write a file under another name that becomes its own when all is written."""
    with (
        whole_file(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        yield file
