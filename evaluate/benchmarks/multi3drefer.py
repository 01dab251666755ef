"""Multi3DRefer: any number of boxes a description; F1 at IoU 0.25 and 0.5 by type."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vega3d.evaluate.benchmarks.boxes import Box, Overlap, check_box, iou_matrix
from vega3d.evaluate.benchmarks.files import Record, by_id, check_has_boxes, matched, read_records
from vega3d.evaluate.benchmarks.measures import Query, Score, mean_measures
from vega3d.evaluate.benchmarks.scanrefer import THRESHOLDS, kind_of, question_of, scene_of
from vega3d.pipeline.errors import UsageError

Protocol = Literal["released", "m3dref", "best-matching"]
ANNOTATED = True
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
"""`released` and `m3dref` pair boxes so that the sum of overlaps is largest, in double and single
precision; `best-matching` pairs them so that most pairs pass the threshold, which the sum does
not promise."""

SCORE_SHARE = 0.4
"""Boxes are taken by falling score until they hold this share of the softmax."""

_TEMPERATURE = 0.07


def score(annotations: str | Path, predictions: str | Path, protocol: str = "released") -> Score:
    """Score sets of predicted boxes; a description without a prediction scores 0.

    Args:
        annotations: Records with `id`, `video`, `box` (a list of boxes, empty for zero targets),
            `metadata.question_type`.
        predictions: Records with `id` (or `sample_id`) and `boxes`; or the released script's
            `scores` and `objects`, from which boxes are selected as it does.
        protocol: One of PROTOCOLS.

    Raises:
        UsageError: A file is malformed; the message has line and field.

    Source: Zhang et al., Multi3DRefer, ICCV 2023; 3dlg-hcvc/M3DRef-CLIP,
    multi3drefer_evaluator.py; H-EmbodVis/VEGA-3D @ 9c96924, llava/eval/eval_multi3drefer.py.
    """
    records = read_records(annotations)
    check_has_boxes(annotations, records, "multi3drefer_val_llava_style.json")
    truths = by_id(records, "id", "sample_id")
    answers = by_id(read_records(predictions), "id", "sample_id")
    missing = matched(truths, answers, predictions)
    overlap: Overlap = "m3dref" if protocol == "m3dref" else "released"
    kinds, found, queries = [], [], []
    for key, truth in truths.items():
        targets = _boxes(truth, "box", "boxes")
        boxes = _predicted(answers[key]) if key in answers else None
        values = [f1(boxes, targets, threshold, overlap, protocol) for threshold in THRESHOLDS]
        kinds.append(kind_of(truth))
        found.append(values)
        queries.append(
            Query(
                query_id=key,
                scene_id=scene_of(truth),
                kind=kinds[-1],
                question=question_of(truth),
                truth=_told(targets),
                answer="" if boxes is None else _told(boxes),
                worth=values[-1],
            )
        )
    scores = np.array(found, dtype=np.float64).reshape(-1, len(THRESHOLDS))
    measures = [
        measure
        for column, threshold in enumerate(THRESHOLDS)
        for measure in mean_measures(f"f1@{threshold}", scores[:, column], kinds)
    ]
    return Score(
        benchmark="multi3drefer",
        protocol=protocol,
        queries=tuple(queries),
        measures=tuple(measures),
        missing=missing,
    )


def select_boxes(objects: Sequence[Any], scores: Sequence[float]) -> list[Any]:
    """Return the objects that the released script takes for an answer; none for zero targets.

    Args:
        objects: N candidates.
        scores: N + 1 cosine scores; the last is the zero-target slot's.

    Source: H-EmbodVis/VEGA-3D @ 9c96924, llava/eval/eval_multi3drefer.py, in float32 as there.
    """
    import torch

    values = torch.tensor(list(scores), dtype=torch.float32)
    if int(values.argmax()) == len(values) - 1:
        return []
    shares, order = torch.softmax(values / _TEMPERATURE, dim=0)[:-1].sort(descending=True)
    total, count = torch.zeros(()), 0  # one by one: cumsum adds up in double precision
    while count < len(shares) and not bool(total >= SCORE_SHARE):
        total, count = total + shares[count], count + 1
    return [objects[int(index)] for index in order[:count]]


def f1(
    boxes: Sequence[Box] | None,
    targets: Sequence[Box],
    threshold: float,
    overlap: Overlap = "released",
    protocol: str = "released",
) -> float:
    """Return the F1 of predicted boxes against the targets; None, for no prediction, scores 0."""
    if boxes is None:
        return 0.0
    if not boxes or not targets:
        return float(not boxes and not targets)
    from scipy.optimize import linear_sum_assignment

    overlaps = iou_matrix(boxes, targets, overlap).astype(np.float32)
    gain = overlaps >= threshold if protocol == "best-matching" else overlaps
    pairs = linear_sum_assignment(gain, maximize=True)
    return float(2 * np.sum(overlaps[pairs] >= threshold) / (len(boxes) + len(targets)))


def _told(boxes: Sequence[Box]) -> str:
    return f"{len(boxes) or 'no'} box{'' if len(boxes) == 1 else 'es'}"


def _predicted(answer: Record) -> list[Box]:
    if answer.has("boxes", "box", "pred_response"):
        return _boxes(answer, "boxes", "box", "pred_response")
    objects, scores = answer.get("objects"), answer.get("scores")
    if not isinstance(scores, list) or len(scores) != len(objects) + 1:
        raise UsageError(
            f"{answer.where}: scores must be one a box of objects and one for zero targets, "
            f"got {len(objects)} objects"
        )
    chosen = select_boxes(objects, scores)
    return [check_box(box, f"{answer.where}, objects") for box in chosen]


def _boxes(record: Record, *names: str) -> list[Box]:
    value: Any = next((record.fields[name] for name in names if name in record.fields), None)
    if value is None:
        raise UsageError(f"{record.where}: needs the field {' or '.join(names)}")
    if not isinstance(value, list) or isinstance(value, Mapping):
        raise UsageError(f"{record.where}: {names[0]} must be a list of boxes, got {value!r:.80}")
    return [check_box(box, f"{record.where}, {names[0]}") for box in value]
