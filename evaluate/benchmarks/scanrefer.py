"""ScanRefer: one box a description; accuracy at IoU 0.25 and 0.5, unique and multiple.

Annotations: the released `scanrefer_vg_*_llava_style.json`, whose records carry the box. The files
of the benchmark itself name objects without boxes, which are ScanNet's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np

from vega3d.evaluate.benchmarks.boxes import Overlap, check_box, iou
from vega3d.evaluate.benchmarks.files import Record, by_id, check_has_boxes, matched, read_records
from vega3d.evaluate.benchmarks.measures import Query, Score, mean_measures
from vega3d.pipeline.errors import UsageError

ANNOTATED = True
PROTOCOLS: tuple[str, ...] = get_args(Overlap)
"""`released` (VEGA-3D's script; ScanRefer's own adds the same 1e-8), `m3dref`, `plain`."""

THRESHOLDS = (0.25, 0.5)
KINDS = ("unique", "multiple")


def score(annotations: str | Path, predictions: str | Path, protocol: str = "released") -> Score:
    """Score a file of predicted boxes; a description without a prediction counts as missed.

    Args:
        annotations: Records with `id`, `video`, `box`, `metadata.question_type`.
        predictions: Records with `id` (or `sample_id`) and `box` (or `pred_response`).
        protocol: One of PROTOCOLS.

    Raises:
        UsageError: A file is malformed; the message has line and field.

    Source: Chen et al., ScanRefer, ECCV 2020; daveredrum/ScanRefer, benchmark/eval.py.
    """
    records = read_records(annotations)
    check_has_boxes(annotations, records, "scanrefer_vg_val_llava_style.json")
    truths = by_id(records, "id", "sample_id")
    answers = by_id(read_records(predictions), "id", "sample_id")
    missing = matched(truths, answers, predictions)
    kinds = [_kind(truth) for truth in truths.values()]
    overlaps = np.array([_overlap(key, truths, answers, protocol) for key in truths])
    queries = tuple(
        Query(
            query_id=key,
            scene_id=scene_of(truth),
            kind=kind,
            question=question_of(truth),
            truth=str(truth.get("box")),
            answer=str(answers[key].get("box", "pred_response")) if key in answers else "",
            worth=float(overlap),
        )
        for (key, truth), kind, overlap in zip(truths.items(), kinds, overlaps, strict=True)
    )
    measures = [
        measure
        for threshold in THRESHOLDS
        for measure in mean_measures(
            f"acc@{threshold}", (overlaps >= threshold).astype(np.float64), kinds
        )
    ]
    return Score(
        benchmark="scanrefer",
        protocol=protocol,
        queries=queries,
        measures=tuple(measures),
        missing=missing,
    )


def scene_of(truth: Record) -> str:
    """Return the scene of a released record: `video` is `scannet/scene0000_00`."""
    return truth.text("scene_id", "video").rsplit("/", 1)[-1]


def question_of(truth: Record) -> str:
    """Return what a released record asks, or its description."""
    if truth.has("question", "description"):
        return truth.text("question", "description")
    turns = truth.fields.get("conversations") or [{}]
    return str(turns[0].get("value", "")).replace("<image>", "").strip()


def kind_of(truth: Record, default: str = "") -> str:
    """Return a released record's question type, at the top or in its metadata."""
    inner = truth.fields.get("metadata")
    beside = inner.get("question_type") if isinstance(inner, Mapping) else None
    found = truth.fields.get("question_type", beside) or default
    if not found:
        raise UsageError(f"{truth.where}: needs the field question_type")
    return str(found)


def _kind(truth: Record) -> str:
    kind = kind_of(truth)
    if kind not in KINDS:
        raise UsageError(f"{truth.where}: question_type must be one of {KINDS}, got {kind!r}")
    return kind


def _overlap(
    key: str, truths: Mapping[str, Record], answers: Mapping[str, Record], protocol: str
) -> float:
    truth = check_box(truths[key].get("box"), truths[key].where)
    if key not in answers:
        return 0.0
    answer = check_box(answers[key].get("box", "pred_response"), answers[key].where)
    return iou(answer, truth, protocol)  # type: ignore[arg-type] # checked by the catalogue
