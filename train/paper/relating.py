"""Does the published consistency go with what the features are good for (the paper's Fig. 3b)?"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vega3d.evaluate.config import ReportConfig, RunConfig, ScoreConfig
from vega3d.evaluate.downstream import read_results
from vega3d.evaluate.figures import relation_chart
from vega3d.evaluate.relations import relate_rows
from vega3d.evaluate.report import report
from vega3d.pipeline.files import write_whole
from vega3d.train.paper.config import PaperConfig

DOWNSTREAM = ("depth_r2", "-normal_deg", "object_accuracy", "displacement_r2")
"""Matching is left out: it compares features between views, as the score itself does."""

_SHOWN = ("raw consistency", "above chance", "centred")


def relate_scores(
    stores: Mapping[str, str], compared: Mapping[str, Any], folder: Path, config: PaperConfig
) -> dict[str, Any]:
    """Score every single stream on all rooms, and correlate with its probes' mean.

    Args:
        stores: By stream.
        compared: What `compare_streams` found.
        folder: Gets results.csv and the report that it is given to.
        config: Sizes and seeds.
    """
    sources = _sources(stores, compared, config)
    table = folder / "results.csv"
    lines = [["model", "aliases", *DOWNSTREAM]]
    for stream in sources:
        found = compared["scores"][stream]
        means = [repr(found[metric.lstrip("-")]["mean"]) for metric in DOWNSTREAM]
        lines.append([stream, "", *means])
    write_whole(table, _as_csv(lines).encode())
    scored = report(
        [f"{stream}={url}" for stream, url in sources.items()],
        str(folder / "consistency"),
        ReportConfig(
            score=ScoreConfig(treatments=("raw", "centred")),
            bootstrap_samples=config.bootstrap_samples,
        ),
        RunConfig(scheduler="synchronous", scenes_shown=1),
        downstream=str(table),
    )
    related = relate_rows(scored.summary, read_results(str(table)))
    kept = [one for one in related.relations if one.score in _SHOWN]
    ranks = {name: place for place, name in enumerate(sources, 1)}
    return {
        "page": str(scored.html),
        "metrics": list(DOWNSTREAM),
        "sources": [
            {
                "stream": name,
                "number": ranks[name],
                "overall": related.overall[name],
                "consistency": related.matched[name].mean("consistency"),
                "above_chance": related.matched[name].mean("above_chance"),
                "centred": related.matched[name].mean("centred_consistency"),
            }
            for name in sources
        ],
        "relations": [
            {
                "score": one.score,
                "pearson": one.pearson.plain(),
                "spearman": one.spearman.plain(),
            }
            for one in kept
        ],
        "chart": relation_chart(kept, ranks) if kept else "",
    }


def _sources(
    stores: Mapping[str, str], compared: Mapping[str, Any], config: PaperConfig
) -> dict[str, str]:
    """Return each single stream and a store of it; the first seed's stands for random twins."""
    found = {}
    for stream in compared["scores"]:
        for name in (stream, f"{stream} {config.seeds[0]}"):
            if name in stores:
                found[stream] = stores[name]
    return found


def _as_csv(lines: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
