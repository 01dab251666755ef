"""A report as plain values: report.json and the rows of scores.csv.

Scenes are read from the partial results one by one, so a report of many takes no more memory.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, TextIO

from vega3d.evaluate.config import SCORE_VERSION
from vega3d.evaluate.matching import RECALL_COUNTS
from vega3d.evaluate.relations import Related
from vega3d.evaluate.sources import Source
from vega3d.evaluate.summary import Row, Summary
from vega3d.evaluate.sweeps import heat_maps
from vega3d.pipeline.texts import safe_values

_PACKAGES = ("vega3d", "numpy", "dask")


def write_json(file: TextIO, summary: Summary, related: Related | None) -> None:
    """Write report.json: the report, then one line a scene and kind of feature."""
    report = json.dumps(safe_values(plain_report(summary, related)), indent=1, allow_nan=False)
    file.write(report.removesuffix("\n}") + ',\n "scenes": [')
    separator = "\n  "
    for records in summary.stores:
        for scene_id, tap, record in records.read():
            line = {"store": records.source.label, "tap": tap, "scene": scene_id, **record}
            file.write(separator + json.dumps(safe_values(line), allow_nan=False))
            separator = ",\n  "
    file.write("\n ]\n}\n")


def plain_report(summary: Summary, related: Related | None) -> dict[str, Any]:
    """Return a report but its scenes as JSON values; a number that does not exist is null."""
    return {
        "score_version": SCORE_VERSION,
        "versions": {name: version(name) for name in _PACKAGES},
        "settings": asdict(summary.config),
        "settings_digest": summary.config.digest,
        "stores": [_plain_source(source) for source in summary.comparison.sources],
        "refused": dict(summary.refused),
        "notes": list(summary.notes),
        "common_scenes": list(summary.common),
        "left_out_scenes": dict(summary.left_out),
        "geometry": {proof.label: proof.plain() for proof in summary.proofs},
        "rows": [_plain_row(row) for row in summary.rows],
        "sweeps": [
            {
                "store": found.label,
                "metric": found.metric,
                "best_tap": found.best_tap,
                "best": asdict(found.estimate),
            }
            for found in heat_maps(summary)
        ],
        "downstream": _plain_related(related) if related else None,
    }


def scene_table(summary: Summary) -> Iterator[list[object]]:
    """Return the header and one row a scene and kind of feature; missing numbers are empty."""
    counts = dict.fromkeys(name for records in summary.stores for name in records.count_names)
    head = ["store", "tap", "scene", "in_means", "reason", "centred_on", "reprojection_m"]
    yield [*head, *counts, *summary.metrics]
    common = set(summary.common)
    errors = {proof.label: proof.reprojection_m for proof in summary.proofs}
    for records in summary.stores:
        for scene_id, tap, record in records.read():
            start = [records.source.label, tap, scene_id, scene_id in common]
            numbers = [record["metrics"].get(metric) for metric in summary.metrics]
            yield [
                *start,
                record["reason"],
                record["centred_on"],
                errors[records.source.label].get(scene_id, ""),
                *(record["counts"][name] for name in counts),
                *("" if number is None else repr(number) for number in numbers),
            ]


def _plain_source(source: Source) -> dict[str, Any]:
    return {
        "label": source.label,
        "urls": list(source.urls),
        "digest": source.digest,
        "config_digest": source.config_digest,
        "identity": dict(source.identity),
        "taps": list(source.taps),
        "second_noise_samples": dict(source.second),
        "grid": list(source.grid),
        "channels": dict(source.channels),
        "num_scenes": len(source.scene_ids),
        "num_failed": len(source.failures),
        "num_pending": source.num_pending,
    }


def _plain_row(row: Row) -> dict[str, Any]:
    return {
        "store": row.source.label,
        "tap": row.tap,
        "block": row.block,
        "timestep": row.timestep,
        "estimates": {name: asdict(estimate) for name, estimate in row.estimates.items()},
        "behind_best": asdict(row.behind),
        "counts": dict(row.counts),
        "pooled_auroc": {
            name: {"value": separation.auroc, "binning_error": separation.auroc_error}
            for name, separation in row.separation.items()
        },
        "recall_count_names": list(RECALL_COUNTS),
        "recall_by_rotation": {n: recall.by_rotation.tolist() for n, recall in row.recall.items()},
        "recall_by_overlap": {n: recall.by_overlap.tolist() for n, recall in row.recall.items()},
    }


def _plain_related(related: Related) -> dict[str, Any]:
    return {
        "title": related.results.title,
        "source": related.results.source,
        "metrics": list(related.results.metrics),
        "nos": dict(related.overall),
        "published": dict(related.results.published),
        "matched": {model: row.name for model, row in related.matched.items()},
        "relations": [
            {
                "score": relation.score,
                "points": [list(point) for point in relation.points],
                "pearson": relation.pearson.plain(),
                "spearman": relation.spearman.plain(),
            }
            for relation in related.relations
        ],
    }
