"""ScanQA: open questions about a scene; exact match and caption metrics.

Annotations: the published `ScanQA_v1.0_*.json` or the released `scanqa_*_llava_style.json`.
"""

from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vega3d.evaluate.benchmarks.captions import caption_measures, tokenise
from vega3d.evaluate.benchmarks.cleaning import clean_answer, contains
from vega3d.evaluate.benchmarks.files import Record, by_id, matched, read_records
from vega3d.evaluate.benchmarks.measures import Query, Score, mean_measures
from vega3d.evaluate.benchmarks.scanrefer import question_of, scene_of

Protocol = Literal["released", "official", "cleaned", "refined"]
ANNOTATED = True
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
"""Exact match: `released` and `official` ask for membership as written (a final dot is wrong),
`cleaned` cleans both sides as SQA3D does, `refined` also takes containment. Captions: `official`
tokenises with PTB (Java), the others take the words as they stand."""

_KINDS = (
    ("Where", "place"),
    ("How many", "number"),
    ("What color", "color"),
    ("What is the color", "color"),
    ("What shape", "object nature"),
    ("What type", "object nature"),
    ("What kind", "object nature"),
    ("What is", "object"),
)


def score(annotations: str | Path, predictions: str | Path, protocol: str = "released") -> Score:
    """Score a file of answers; a question without a prediction counts as an empty answer.

    Args:
        annotations: See the module.
        predictions: Records with `question_id` (or `sample_id`, `id`) and `answer` (or
            `pred_response`, or `answer_top10`, whose first counts).
        protocol: One of PROTOCOLS.

    Raises:
        UsageError: A file is malformed; the message has line and field.

    Source: Azuma et al., ScanQA, CVPR 2022; ATR-DBI/ScanQA, scripts/score.py;
    H-EmbodVis/VEGA-3D @ 9c96924, llava/eval/eval_scanqa.py.
    """
    truths = by_id(read_records(annotations), "question_id", "id")
    answers = by_id(read_records(predictions), "question_id", "sample_id", "id")
    missing = matched(truths, answers, predictions)
    right = {key: _answers(truth) for key, truth in truths.items()}
    given = {key: _given(answers[key]) if key in answers else "" for key in truths}
    worth = np.array(
        [float(key in answers and is_right(given[key], right[key], protocol)) for key in truths]
    )
    kinds = [question_kind(question_of(truth)) for truth in truths.values()]
    if protocol == "official":
        references, texts = tokenise(right), tokenise({key: [given[key]] for key in truths})
    else:
        references = {key: list(each) for key, each in right.items()}
        texts = {key: [given[key].rstrip(".")] for key in truths}
    captions, _ = caption_measures(references, texts)
    queries = tuple(
        Query(
            query_id=key,
            scene_id=scene_of(truth),
            kind=kind,
            question=question_of(truth),
            truth=" | ".join(right[key]),
            answer=given[key],
            worth=float(value),
        )
        for (key, truth), kind, value in zip(truths.items(), kinds, worth, strict=True)
    )
    return Score(
        benchmark="scanqa",
        protocol=protocol,
        queries=queries,
        measures=(*mean_measures("em", worth, kinds), *captions),
        missing=missing,
    )


def is_right(answer: str, truths: tuple[str, ...], protocol: str) -> bool:
    """Say whether an answer is one of the right ones under a protocol."""
    if protocol in ("released", "official"):
        return answer in truths
    ours = clean_answer(answer)
    cleaned = [clean_answer(truth) for truth in truths]
    return ours in cleaned or (protocol == "refined" and any(contains(ours, t) for t in cleaned))


def question_kind(question: str) -> str:
    """Return the benchmark's own class of a question, by the words that it holds."""
    return next((kind for words, kind in _KINDS if words in question), "other")


def _answers(truth: Record) -> tuple[str, ...]:
    inner = truth.fields.get("metadata") or {}
    if "answers" in inner:
        return Record(truth.where, inner).texts("answers")
    return truth.texts("answers")


def _given(answer: Record) -> str:
    if answer.has("answer_top10"):
        return answer.texts("answer_top10")[0]
    return answer.text("answer", "pred_response")
