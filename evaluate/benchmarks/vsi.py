"""VSI-Bench: multiple choice by accuracy, numbers by mean relative accuracy, eight tasks.

Annotations: the published parquet (`test-*.parquet`) or JSON lines, with `id`, `scene_name`,
`question_type`, `question`, `ground_truth`, `options`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64

from vega3d.evaluate.benchmarks.cleaning import first_number, option_letter
from vega3d.evaluate.benchmarks.files import Record, by_id, matched, read_records
from vega3d.evaluate.benchmarks.measures import OVERALL, Measure, Query, Score, mean_measures
from vega3d.pipeline.errors import UsageError

Protocol = Literal["official", "lenient"]
ANNOTATED = True
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
"""`official` reads the first word of an answer, so that "A)" is wrong, "A. chair" is right, and
"about 3.5 meters" scores 0; `lenient` finds the letter or the number where it stands."""

DIRECTIONS = tuple(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard"))
CHOICES = (*DIRECTIONS, "object_rel_distance", "route_planning", "obj_appearance_order")
NUMBERS = (
    "object_abs_distance",
    "object_counting",
    "object_size_estimation",
    "room_size_estimation",
)
CONFIDENCES = np.linspace(0.5, 0.95, 10)
"""0.50 to 0.95 in steps of 0.05, in the script's own floats."""


def score(annotations: str | Path, predictions: str | Path, protocol: str = "official") -> Score:
    """Score a file of answers; a question without a prediction counts as wrong.

    Args:
        annotations: See the module.
        predictions: Records with `id` and `prediction` (or `answer`, `pred_response`).
        protocol: One of PROTOCOLS.

    Raises:
        UsageError: A file is malformed; the message has line and field.

    Source: Yang et al., Thinking in Space, CVPR 2025; vision-x-nyu/thinking-in-space,
    lmms_eval/tasks/vsibench/utils.py.
    """
    truths = by_id(read_questions(annotations), "id")
    answers = by_id(read_records(predictions), "id", "sample_id")
    missing = matched(truths, answers, predictions)
    queries = tuple(_query(key, truth, answers.get(key), protocol) for key, truth in truths.items())
    worth = np.array([query.worth for query in queries], dtype=np.float64)
    kinds = [query.kind for query in queries]
    return Score(
        benchmark="vsi",
        protocol=protocol,
        queries=queries,
        measures=_measures(worth, kinds),
        missing=missing,
    )


def read_questions(path: str | Path) -> tuple[Record, ...]:
    """Return the questions of a parquet, JSON or JSON-lines file."""
    if Path(path).suffix != ".parquet":
        return read_records(path)
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise UsageError(f"{path}: reading parquet needs pyarrow: pip install pyarrow") from error
    try:
        rows = read_table(str(path)).to_pylist()
    except (OSError, ArrowException) as error:
        raise UsageError(f"{path}: cannot be read as parquet: {error}") from error
    return tuple(Record(f"{path}, row {number}", row) for number, row in enumerate(rows, 1))


def relative_accuracy(answer: float, truth: float) -> float:
    """Return the share of ten confidences theta at which |answer - truth| / truth <= 1 - theta.

    An error of exactly 1 - theta counts as right, in the floats of the official code.
    """
    error = abs(answer - truth) / truth
    return float((error <= 1 - CONFIDENCES).mean())


def is_choice(kind: str) -> bool:
    """Say whether a question type is answered with a letter."""
    return kind in CHOICES


def worth_of(answer: str, truth: str, kind: str, protocol: str) -> float:
    """Return what one answer is worth, in [0, 1]."""
    word = answer.split(" ")[0].rstrip(".").strip()
    if is_choice(kind):
        if protocol == "lenient":
            word = option_letter(answer) or word
        return float(word.lower() == truth.lower())
    number = first_number(answer) if protocol == "lenient" else _to_float(word)
    return 0.0 if number is None else relative_accuracy(number, float(truth))


def _query(key: str, truth: Record, answer: Record | None, protocol: str) -> Query:
    kind = truth.text("question_type")
    if kind not in (*CHOICES, *NUMBERS):
        raise UsageError(f"{truth.where}: question_type {kind!r} is none of VSI-Bench's")
    right = truth.text("ground_truth")
    if not is_choice(kind) and not (_to_float(right) or 0) > 0:
        raise UsageError(f"{truth.where}: ground_truth must be a number above 0, got {right!r}")
    given = "" if answer is None else answer.text("prediction", "answer", "pred_response")
    return Query(
        query_id=key,
        scene_id=truth.text("scene_name", "scene_id"),
        kind=kind,
        question=truth.text("question"),
        truth=right,
        answer=given,
        worth=0.0 if answer is None else worth_of(given, right, kind, protocol),
    )


def _measures(worth: Float64[np.ndarray, " N"], kinds: Sequence[str]) -> tuple[Measure, ...]:
    """Return a measure a task, the three directions as one, and their plain mean."""
    present = [kind for kind in (*NUMBERS, *CHOICES) if kind in kinds]
    columns = [
        np.stack([np.where(mask, worth, 0.0), mask.astype(np.float64)], axis=1)
        for mask in (np.array([each == kind for each in kinds]) for kind in present)
    ]
    statistics = np.concatenate(columns, axis=1) if columns else np.zeros((len(worth), 0))
    tasks = _tasks(present)
    by_task = [
        Measure(
            metric="accuracy" if is_choice(members[0]) else "mra",
            group=task,
            statistics=statistics,
            reduce=partial(_mean_of_means, tasks=(indices,)),
        )
        for task, (members, indices) in tasks.items()
    ]
    everywhere = tuple(indices for _, indices in tasks.values())
    overall = Measure(
        metric="score",
        group=OVERALL,
        statistics=statistics,
        reduce=partial(_mean_of_means, tasks=everywhere),
    )
    single = [m for m in mean_measures("by level", worth, kinds) if m.group in DIRECTIONS]
    return (overall, *by_task, *single)


def _tasks(present: Sequence[str]) -> dict[str, tuple[list[str], tuple[int, ...]]]:
    """Return the question types of each task and their columns; directions only when all are."""
    tasks: dict[str, tuple[list[str], tuple[int, ...]]] = {}
    for kind in present:
        name = "object_rel_direction" if kind in DIRECTIONS else kind
        members, indices = tasks.get(name, ([], ()))
        tasks[name] = ([*members, kind], (*indices, present.index(kind)))
    return tasks


def _mean_of_means(
    totals: Float64[np.ndarray, "... S"], tasks: Sequence[Sequence[int]]
) -> Float64[np.ndarray, "..."]:
    """Return the mean over tasks of the mean over a task's question types of their means."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = totals[..., 0::2] / totals[..., 1::2]
    by_task = [means[..., list(columns)].mean(axis=-1) for columns in tasks]
    return np.asarray(np.mean(by_task, axis=0))


def _to_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
