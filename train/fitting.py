"""Train one fusion on cached features: the whole story of `vega3d-train fit`."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vega3d.pipeline.files import remove_partial_files
from vega3d.train.checkpoint import write_json
from vega3d.train.config import RunConfig, TrainConfig
from vega3d.train.journal import read_metrics
from vega3d.train.pairing import pair_stores
from vega3d.train.predictions import write_predictions
from vega3d.train.processes import Processes, join_processes, repeatable
from vega3d.train.report import write_report
from vega3d.train.rundir import (
    SUMMARY,
    RunPlan,
    check_answers,
    kept_policy,
    plan_run,
    write_record,
)
from vega3d.train.scoring import Scores
from vega3d.train.sealed import read_sealed_json, sealed_json
from vega3d.train.trainer import Trainer


def fit(
    prior: str | Sequence[str],
    semantic: str | Sequence[str],
    out: str | Path,
    config: TrainConfig,
    run: RunConfig | None = None,
    *,
    prior_tap: str | None = None,
    semantic_tap: str | None = None,
    labels: str | Sequence[str] | None = None,
    questions: Sequence[str] | None = None,
    actions: Sequence[str] | None = None,
    text_model: str | None = None,
) -> dict[str, Any]:
    """Train on two stores, leave the run in `out`, and return its summary.

    Repeat the call to resume: the same config and stores go on after the last checkpoint, and the
    remaining losses are those of the undisturbed run, bit for bit (same device and threads). A
    finished run is left as it is.

    Args:
        prior: Store of generative features, or several to read as one; it has the geometry.
        semantic: Store of recognition features of the same views.
        out: The run's folder.
        config: Decides the numbers.
        run: How it is carried out.
        prior_tap: Name of the prior's features, where the store has several.
        semantic_tap: Likewise.
        labels: Store of token classes, for the task `classes`.
        questions: Annotation files, for grounding, qa, vsi and caption.
        actions: Locations of demonstrations, for action.
        text_model: What turns their texts into vectors; None takes `words`.

    Raises:
        UsageError: The stores do not fit together, the scored views have no answer to a task, or
            `out` holds another run.
        NonFiniteLossError: The loss is NaN or infinite.
    """
    run = RunConfig() if run is None else run
    run_dir = Path(out)
    pairing = pair_stores(
        prior,
        semantic,
        prior_tap=prior_tap,
        semantic_tap=semantic_tap,
        labels=labels,
        questions=questions,
        actions=actions,
        text_model=text_model,
        allow_partial=run.allow_partial,
    )
    plan = plan_run(replace(pairing, policy=kept_policy(run_dir)), config)
    check_answers(plan)
    with join_processes(run.device) as here, repeatable(run.deterministic, here.device.type):
        if here.is_first:
            remove_partial_files(run_dir)
            write_record(run_dir, plan, run)
        saved = _finished_summary(run_dir, here)
        return saved or _train(Trainer(plan, run_dir, run, here))


def _train(trainer: Trainer) -> dict[str, Any]:
    """Train to the end or to a signal, leave report and summary, and return the summary."""
    finished = trainer.train()
    scores = (trainer.scores or trainer.score()) if finished else None
    summary = _summary(trainer.plan, trainer, scores)
    if trainer.processes.is_first:
        if scores is not None:
            write_report(
                trainer.run_dir,
                trainer.scored_model,
                trainer.scoring_loader,
                trainer.plan,
                scores,
                num_scenes=trainer.run.report_scenes,
            )
            summary["benchmarks"] = _benchmarks(trainer)
        # Last: it says that the run is finished.
        write_json(trainer.run_dir / SUMMARY, sealed_json(summary))
    return summary


def _benchmarks(trainer: Trainer) -> dict[str, dict[str, float]]:
    """Write the answers to the scored questions, and return the official metrics."""
    table = trainer.plan.pairing.question_table(trainer.plan.config)
    if table is None:
        return {}
    model, loader = trainer.scored_model, trainer.scoring_loader
    return write_predictions(trainer.run_dir, model, loader, trainer.plan.scoring, table)


def _finished_summary(run_dir: Path, processes: Processes) -> dict[str, Any] | None:
    """Return the summary of a run that is finished, the same on every process."""
    summary = None
    if processes.is_first and (run_dir / SUMMARY).exists():
        summary = read_sealed_json(
            run_dir / SUMMARY, "remove it and repeat the run's command, which scores again"
        )
    (summary, *_) = processes.gather(summary)
    return {**summary, "run": str(run_dir)} if summary and summary["finished"] else None


def _median_rate(run_dir: Path) -> float:
    """Return tokens a second, the median over the intervals between lines of the log."""
    rates = [line["tokens_per_s"] for line in read_metrics(run_dir) if line["kind"] == "train"]
    return round(statistics.median(rates), 1) if rates else 0.0


def _summary(plan: RunPlan, trainer: Trainer, scores: Scores | None) -> dict[str, Any]:
    summary = {
        "run": str(trainer.run_dir),
        "variant": plan.config.variant,
        "seed": plan.config.seed,
        "steps": trainer.done,
        "finished": scores is not None,
        "tokens_per_s": _median_rate(trainer.run_dir),
        "streams": plan.streams(),
        "split": plan.split.kind,
        "split_note": plan.split.note,
        "notes": list(plan.pairing.notes),
    }
    if scores is None:
        return summary
    return summary | {
        "score": _finite(scores.score()),
        "metrics": {n: value for n, value in scores.metrics().items() if math.isfinite(value)},
        "gate_mean": _finite(scores.gate_mean),
        "scene_scores": {name: _finite(value) for name, value in scores.scene_scores().items()},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
