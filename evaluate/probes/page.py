"""A probe as plain values and as one page that needs no other file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vega3d.evaluate.intervals import Estimate
from vega3d.evaluate.probes.config import PROBE_VERSION
from vega3d.evaluate.probes.crossfit import MOMENTS
from vega3d.evaluate.probes.measures import QUESTIONS, Question
from vega3d.evaluate.probes.summary import ProbeRow, ProbeSummary
from vega3d.evaluate.tables import Cell, cell, counted
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.pages import page_of
from vega3d.pipeline.texts import safe_values

_PACKAGES = ("vega3d", "numpy", "torch")
_HEADS = {
    "ridge": (
        "Read by a ridge",
        "R2 (accuracy of classes) of a linear map, over tokens of scenes that it was not fitted "
        "on. 1 is all, 0 what the mean of the scored tokens would do; below 0 is worse than that.",
    ),
    "mlp": (
        "Read by a small MLP",
        "The same by one hidden layer: what is there but not linearly so.",
    ),
    "gain": (
        "What the features add to position",
        "R2 (accuracy) of a ridge that sees the features and where the token lies in the grid, "
        "minus that of one which sees the place alone, on the same resamples of the scenes. A room "
        "has its floor below and its walls in the middle: only what goes beyond that is seeing.",
    ),
}


@dataclass(frozen=True, slots=True)
class ProbeTable:
    """One reader's numbers of all rows."""

    title: str
    caption: str
    rows: Sequence[tuple[ProbeRow, Sequence[tuple[Cell, float | None]]]]
    """Each cell with its bar, per cent of the track."""


def write_probe(out: Path, summary: ProbeSummary) -> tuple[Path, Path]:
    """Write probe.html and probe.json into a folder, and return where they are."""
    out.mkdir(parents=True, exist_ok=True)
    html, plain = out / "probe.html", out / "probe.json"
    write_whole(
        plain, (json.dumps(safe_values(plain_probe(summary)), indent=1, allow_nan=False)).encode()
    )
    write_whole(html, render_probe(summary).encode())
    return html, plain


def render_probe(summary: ProbeSummary) -> str:
    """Return the page."""
    asked = [q for q in QUESTIONS if q.name in summary.questions]
    page = SimpleNamespace(
        subtitle=_subtitle(summary),
        notes=summary.comparison.notes,
        refused=summary.comparison.refused,
        questions=asked,
        tables=[table for reader in _HEADS if (table := _table(summary, reader, asked))],
        errors=_errors(summary, [q for q in asked if q.error]),
        settings=list(_settings(summary).items()),
        stores=[(s.label, ", ".join(s.urls), s.digest) for s in summary.comparison.sources],
    )
    return page_of("vega3d.evaluate", "templates/probe.html", page=page)


def plain_probe(summary: ProbeSummary) -> dict[str, Any]:
    """Return everything as JSON values; a number that does not exist is null."""
    return {
        "probe_version": PROBE_VERSION,
        "versions": {name: version(name) for name in _PACKAGES},
        "settings": asdict(summary.config),
        "settings_digest": summary.config.digest,
        "labels": summary.labels,
        "scenes": list(summary.comparison.views),
        "refused": dict(summary.comparison.refused),
        "left_out_scenes": dict(summary.comparison.left_out),
        "notes": list(summary.comparison.notes),
        "stores": {
            s.label: {"urls": s.urls, "digest": s.digest} for s in summary.comparison.sources
        },
        "questions": {q.name: {"score": q.score, "error": q.error} for q in QUESTIONS},
        "rows": [
            {
                "store": row.label,
                "tap": row.tap,
                "control": row.control,
                "asked": dict(row.asked),
                "scores": _plain(row.scores),
                "errors": _plain(row.errors),
            }
            for row in summary.rows
        ],
    }


def probe_result(summary: ProbeSummary) -> dict[str, dict[str, float | None]]:
    """Return the ridge's score of every row by question, for the command's last line."""
    return {
        f"{row.label} {row.tap}": {
            question: row.scores["ridge", question].mean
            for question in summary.questions
            if ("ridge", question) in row.scores
        }
        for row in summary.rows
    }


def _plain(found: Mapping[tuple[str, str], Estimate]) -> dict[str, dict[str, Any]]:
    plain: dict[str, dict[str, Any]] = {}
    for (reader, question), estimate in found.items():
        plain.setdefault(reader, {})[question] = asdict(estimate)
    return plain


def _table(summary: ProbeSummary, reader: str, asked: Sequence[Question]) -> ProbeTable | None:
    shown = [q for q in asked if any((reader, q.name) in row.scores for row in summary.rows)]
    if not shown:
        return None
    title, caption = _HEADS[reader]
    held = [row for row in summary.rows if any((reader, q.name) in row.scores for q in shown)]
    rows = []
    for row in held:
        estimates = [row.scores.get((reader, q.name)) for q in asked]
        rows.append((row, [(cell(found), _bar(found)) for found in estimates]))
    return ProbeTable(title, caption, rows)


def _errors(summary: ProbeSummary, asked: Sequence[Question]) -> ProbeTable:
    rows = [
        (row, [(cell(row.errors.get(("ridge", q.name))), None) for q in asked])
        for row in summary.rows
    ]
    heads = "; ".join(f"{q.title}: {q.error}" for q in asked)
    return ProbeTable("The ridge's errors in plain terms", f"Means over tokens. {heads}.", rows)


def _bar(found: Estimate | None) -> float | None:
    if found is None or found.mean is None:
        return None
    return round(100 * min(max(found.mean, 0.0), 1.0), 1)


def _subtitle(summary: ProbeSummary) -> str:
    kinds = sum(not row.control for row in summary.rows)
    num = len(summary.comparison.views)
    return (
        f"{counted(kinds, 'kind')} of features, {counted(num, 'scene')} in "
        f"{min(summary.config.folds, num)} folds, settings {summary.config.digest}"
    )


def _settings(summary: ProbeSummary) -> dict[str, str]:
    config = summary.config
    folds = min(config.folds, len(summary.comparison.views))
    strengths = ", ".join(f"{strength:g}" for strength in config.strengths)
    asked = summary.rows[0].asked
    mlp = (
        f"{config.mlp_hidden} hidden, up to {config.mlp_steps} steps of 512 tokens or all, AdamW; "
        f"which of {MOMENTS} moments of a fit is believed, and how far, is chosen on one fold that "
        "the fit does not see"
    )
    return {
        "split": f"{folds} folds of whole scenes; each is read by probes fitted on the others",
        "scored": ", ".join(f"{name} {count:,}" for name, count in asked.items()),
        "ridge": f"standardised channels; strength of {strengths}, chosen on one fitted fold",
        "MLP": mlp if config.mlp_hidden else "none",
        "relative pose": f"{config.pose_components} leading components of each quarter of two "
        "views, one or two apart, in both orders",
        "classes": summary.labels or "none asked",
        "intervals": f"95 % of {config.bootstrap_samples} resamples of the scenes, the fitted "
        "probes held fixed",
        "settings digest": config.digest,
    }
