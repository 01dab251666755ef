"""Scan2Cap: a caption for each object; caption metrics of those whose box is found.

Annotations: the released `scan2cap_val_llava_style.json` (`annotations`, `gt_box`), or records with
`id`, `scene_id`, `captions` and `box`.
"""

from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vega3d.evaluate.benchmarks.boxes import check_box, iou
from vega3d.evaluate.benchmarks.captions import caption_measures, tokenise
from vega3d.evaluate.benchmarks.files import Record, by_id, matched, read_records
from vega3d.evaluate.benchmarks.measures import Query, Score
from vega3d.evaluate.benchmarks.scanrefer import scene_of

Protocol = Literal["released", "scan2cap", "coco", "found-only"]
ANNOTATED = True
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
"""`released`: texts are wrapped in "sos ... eos", dots and commas parted, an object without a
found box has an empty caption. `scan2cap`: the same, the box must overlap by MORE than 0.5, and
references end after 30 words. `coco`: PTB tokens without the wrapper, which lends every caption two
right words. `found-only`: as released, over the objects whose box was found, which says how good
captions are and not how many there are."""

MIN_IOU = 0.5
_MAX_WORDS = 30


def score(annotations: str | Path, predictions: str | Path, protocol: str = "released") -> Score:
    """Score a file of captions; an object without a prediction has an empty caption.

    Args:
        annotations: See the module.
        predictions: Records with `id` (or `sample_id`) and `caption` (or `pred_response`), and
            where boxes are predicted `box`; without it the box counts as found.
        protocol: One of PROTOCOLS.

    Raises:
        UsageError: A file is malformed; the message has line and field.

    Source: Chen et al., Scan2Cap, CVPR 2021; daveredrum/Scan2Cap, lib/eval_helper.py;
    H-EmbodVis/VEGA-3D @ 9c96924, llava/eval/eval_scan2cap.py.
    """
    truths = by_id(read_records(annotations), "id", "sample_id")
    answers = by_id(read_records(predictions), "id", "sample_id")
    missing = matched(truths, answers, predictions)
    found = {key: _is_found(truths[key], answers.get(key), protocol) for key in truths}
    keys = [key for key in truths if found[key] or protocol != "found-only"]
    captions = {
        key: answers[key].text("caption", "pred_response") if found[key] else "" for key in keys
    }
    right = {key: truths[key].texts("captions", "annotations") for key in keys}
    if protocol == "coco":
        references, texts = tokenise(right), tokenise({key: [captions[key]] for key in keys})
    else:
        words = _MAX_WORDS if protocol == "scan2cap" else None
        references = {key: [_wrapped(text, words) for text in right[key]] for key in keys}
        texts = {key: [_wrapped(captions[key], None)] for key in keys}
    measures, cider = caption_measures(references, texts)
    queries = tuple(
        Query(
            query_id=key,
            scene_id=scene_of(truths[key]),
            kind="found" if found[key] else "not found",
            question=f"describe {key}",
            truth=" | ".join(right[key]),
            answer=captions[key],
            worth=float(np.clip(value, 0.0, 1.0)),
        )
        for key, value in zip(keys, cider, strict=True)
    )
    return Score(
        benchmark="scan2cap",
        protocol=protocol,
        queries=queries,
        measures=measures,
        missing=missing,
    )


def _is_found(truth: Record, answer: Record | None, protocol: str) -> bool:
    if answer is None:
        return False
    if not answer.has("box"):
        return True
    overlap = iou(
        check_box(answer.get("box"), answer.where),
        check_box(truth.get("gt_box", "box"), truth.where),
    )
    return overlap > MIN_IOU if protocol == "scan2cap" else overlap >= MIN_IOU


def _wrapped(text: str, words: int | None) -> str:
    parted = text.replace(".", " . ").replace(",", " , ").lower()
    if words is not None:
        parted = " ".join(parted.split()[:words])
    return f"sos {parted} eos"
