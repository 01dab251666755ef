"""SQA3D: situated questions; exact match after cleaning, by the question's first word.

Annotations: the published pair `v1_balanced_questions_*.json` and `..._sqa_annotations_*.json`
(give either; the other lies beside it), or the released `sqa3d_*_llava_style.json`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vega3d.evaluate.benchmarks.cleaning import clean_answer, contains
from vega3d.evaluate.benchmarks.files import Record, by_id, matched, read_records
from vega3d.evaluate.benchmarks.measures import Query, Score, mean_measures
from vega3d.evaluate.benchmarks.scanrefer import question_of, scene_of
from vega3d.pipeline.errors import UsageError

Protocol = Literal["released", "raw", "refined"]
ANNOTATED = True
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
"""`released` cleans both sides and asks for equality, as the benchmark's own script; `raw` asks
for equality as written; `refined` is the EM-R of later papers: one text holds the other."""

KINDS = ("what", "is", "how", "can", "which", "others")


def score(annotations: str | Path, predictions: str | Path, protocol: str = "released") -> Score:
    """Score a file of answers; a question without a prediction counts as wrong.

    Args:
        annotations: See the module.
        predictions: Records with `question_id` (or `sample_id`, `id`) and `answer` (or
            `pred_response`).
        protocol: One of PROTOCOLS.

    Raises:
        UsageError: A file is malformed; the message has line and field.

    Source: Ma et al., SQA3D, ICLR 2023; H-EmbodVis/VEGA-3D @ 9c96924, llava/eval/eval_sqa3d.py.
    """
    truths = read_questions(annotations)
    answers = by_id(read_records(predictions), "question_id", "sample_id", "id")
    missing = matched(truths, answers, predictions)
    given = {key: record.text("answer", "pred_response") for key, record in answers.items()}
    queries = tuple(
        Query(
            query_id=key,
            scene_id=truth.scene_id,
            kind=truth.kind,
            question=truth.question,
            truth=truth.truth,
            answer=given.get(key, ""),
            worth=float(key in given and is_right(given[key], truth.truth, protocol)),
        )
        for key, truth in truths.items()
    )
    worth = np.array([query.worth for query in queries])
    kinds = [query.kind for query in queries]
    return Score(
        benchmark="sqa3d",
        protocol=protocol,
        queries=queries,
        measures=mean_measures("em", worth, kinds),
        missing=missing,
    )


def is_right(answer: str, truth: str, protocol: str) -> bool:
    """Say whether an answer counts under a protocol."""
    if protocol == "raw":
        return answer == truth
    ours, theirs = clean_answer(answer), clean_answer(truth)
    return ours == theirs if protocol == "released" else contains(ours, theirs)


def read_questions(path: str | Path) -> dict[str, Query]:
    """Return the questions of a split by id, with their answers and kinds."""
    path = Path(path)
    records = read_records(path)
    beside = _other_half(path)
    if beside is None:
        return {key: _released(record) for key, record in by_id(records, "id").items()}
    others = by_id(read_records(beside), "question_id")
    mine = by_id(records, "question_id")
    questions, truths = (mine, others) if "questions" in path.name else (others, mine)
    if alone := sorted(questions.keys() ^ truths.keys()):
        raise UsageError(f"{path} and {beside.name} differ in questions, such as {alone[:3]}")
    return {key: _published(questions[key], truths[key]) for key in questions}


def question_kind(question: str) -> str:
    """Return the kind by a question's first word."""
    word = question.strip().split(" ")[0].lower() if question.strip() else ""
    return word if word in KINDS else "others"


def _other_half(path: Path) -> Path | None:
    for mine, theirs in (
        ("_questions_", "_sqa_annotations_"),
        ("_sqa_annotations_", "_questions_"),
    ):
        if mine in path.name:
            beside = path.with_name(path.name.replace(mine, theirs))
            if not beside.is_file():
                raise UsageError(f"{path}: its other half {beside.name} must lie beside it")
            return beside
    return None


def _published(question: Record, truth: Record) -> Query:
    answers = truth.get("answers")
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], Mapping):
        raise UsageError(f"{truth.where}: answers must be a list of objects with `answer`")
    return Query(
        query_id=question.text("question_id"),
        scene_id=question.text("scene_id"),
        kind=question_kind(question.text("question")),
        question=f"{question.text('situation')} {question.text('question')}",
        truth=str(answers[0].get("answer", "")),
    )


def _released(record: Record) -> Query:
    turns = record.get("conversations")
    kind = (record.fields.get("metadata") or {}).get("question_type", "others")
    return Query(
        query_id=record.text("id"),
        scene_id=scene_of(record),
        kind=str(kind),
        question=question_of(record),
        truth=str(turns[-1].get("value", "")),
    )
