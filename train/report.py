"""The pages at the end: learning curves, the gate's distribution, gates over views; the ablation.

Self-contained HTML: no script, no font and no picture from elsewhere.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vega3d.pipeline.pages import page_of
from vega3d.train.charts import Curve, dot_chart, histogram, line_chart
from vega3d.train.checkpoint import write_text
from vega3d.train.gates import (
    GENERATIVE_RGB,
    SEMANTIC_RGB,
    gate_range,
    read_gates,
    scene_pictures,
    vary,
)
from vega3d.train.journal import read_metrics
from vega3d.train.loader import Loader
from vega3d.train.model import SpatialModel
from vega3d.train.rundir import RunPlan, read_record
from vega3d.train.scoring import Scores
from vega3d.train.tasks.registry import task_class

REPORT = "report.html"
_TEMPLATE = "report.html.j2"
_LOSS = {"loss": "loss per answer (0 best)"}


def write_report(
    run_dir: Path,
    model: SpatialModel,
    loader: Loader,
    plan: RunPlan,
    scores: Scores,
    *,
    num_scenes: int = 3,
) -> Path:
    """Write the page of a finished run and return its path."""
    lines = read_metrics(run_dir)
    shown = {scene.scene_id for scene in plan.split.val[:num_scenes]}
    gates = read_gates(model, loader, [s for s in plan.scoring if s.scene_id in shown])
    gates = gates if vary(gates) else {}
    limits = gate_range(gates) if gates else (0.0, 1.0)
    record = read_record(run_dir)
    page = _render(
        kind="run",
        title=f"{plan.config.variant}: {', '.join(plan.config.tasks)}",
        subtitle=f"{plan.split.note} Seed {plan.config.seed}, {plan.config.steps} steps.",
        notes=[f"{name}: {text}" for name, text in record["streams"].items()] + record["notes"],
        cards=_cards(scores, lines),
        metrics=_metric_rows(scores),
        curves=_curves(lines, scores.primaries),
        peak=peak_text(lines),
        histogram=Markup(histogram(scores.gate_counts, "gate")) if scores.gate_counts else None,
        gate_mean=scores.gate_mean,
        scenes=scene_pictures(plan.pairing, gates, limits) if gates else [],
        limits=limits,
        config=record["identity"]["train"],
        versions=record["versions"],
    )
    return _write(run_dir / REPORT, page)


def write_table_report(out: Path, table: Sequence[Sequence[str]], note: str) -> Path:
    """Write the page of an ablation and return its path."""
    head, *rows = table
    pairs = [[float(number) for number in row[1].split(" +- ")] for row in rows]
    known = [
        (row[0], *pair)
        for row, pair in zip(rows, pairs, strict=True)
        if all(math.isfinite(number) for number in pair)
    ]
    chart = dot_chart(*zip(*known, strict=True)) if known else ""
    page = _render(
        kind="table",
        title="Fusions compared",
        subtitle=note,
        head=head,
        rows=rows,
        chart=Markup(chart),
    )
    return _write(out / REPORT, page)


def _render(**values: Any) -> str:  # noqa: ANN401 - the template's names
    colours = {
        "generative": f"rgb{GENERATIVE_RGB}",
        "semantic": f"rgb{SEMANTIC_RGB}",
    }
    return page_of("vega3d.train", _TEMPLATE, colours=colours, **values)


def _write(path: Path, page: str) -> Path:
    write_text(path, page)
    return path


def _cards(scores: Scores, lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    metrics = scores.metrics()
    cards = [("score", f"{scores.score():.3f}")] if len(scores.primaries) > 1 else []
    cards += [(name, f"{metrics[name]:.3f}") for name in scores.primaries if name in metrics]
    if math.isfinite(scores.gate_mean):
        cards.append(("mean gate", f"{scores.gate_mean:.3f}"))
    rates = sorted(line["tokens_per_s"] for line in lines if line["kind"] == "train")
    if rates:
        cards.append(("tokens/s, median", f"{rates[len(rates) // 2]:,.0f}"))
    return cards


def _metric_rows(scores: Scores) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, value in scores.metrics().items():
        task, metric = name.split("/")
        count = sum(sums[name][1] for sums in scores.scenes.values() if name in sums)
        meaning = _LOSS[metric] if metric in _LOSS else task_class(task).meaning(metric)
        rows.append((name, f"{value:.4f}", f"{count:,.0f}", meaning))
    return rows


def _curves(lines: list[dict[str, Any]], primaries: Sequence[str]) -> list[tuple[str, Markup]]:
    train = [line for line in lines if line["kind"] == "train"]
    val = [line for line in lines if line["kind"] == "val"]
    charts = []
    for name in primaries:
        task = name.split("/")[0]
        curves = [_curve("train", train, f"loss/{task}"), _curve("scored", val, f"{task}/loss")]
        charts.append((f"{task}: loss per answer", _chart(curves, None)))
    curves = [_curve(name, val, name) for name in primaries]
    charts.append(("scored views, 1 is best", _chart(curves, (0.0, 1.0))))
    if any("gate_mean" in line for line in val):
        curves = [_curve("mean gate", val, "gate_mean")]
        charts.append(("mean gate: 0 generative, 1 semantic", _chart(curves, (0.0, 1.0))))
    return charts


def peak_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """Say where the score was highest, and what that means; "" where it was taken once."""
    scored = [line for line in lines if line["kind"] == "val" and "score" in line]
    if len(scored) < 2:
        return ""
    best, last = max(scored, key=lambda line: float(line["score"])), scored[-1]
    if best["score"] <= last["score"]:
        return f"The score was highest at the last step: {last['score']:.3f}."
    return (
        f"The score was highest at step {best['step']} ({best['score']:.3f}) and is "
        f"{last['score']:.3f} at the end: where the loss of training falls meanwhile, what is "
        "learned after it holds for the trained scenes alone. More scenes or fewer steps mend "
        "that; --weights best takes that step's, which were then chosen on the scored views."
    )


def _curve(label: str, lines: list[dict[str, Any]], name: str) -> Curve:
    found = [(line["step"], line[name]) for line in lines if name in line]
    return Curve(label, [step for step, _ in found], [value for _, value in found])


def _chart(curves: list[Curve], y_range: tuple[float, float] | None) -> Markup:
    return Markup(line_chart(curves, "step", y_range))
