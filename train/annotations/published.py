"""Readers of the published files; a format is known by its fields, a split by the file's name.

| file | becomes |
|---|---|
| `ScanRefer_filtered_*.json` (its boxes from a file of boxes) | scanrefer |
| `multi3drefer_*.json` (likewise) | multi3drefer |
| `ScanQA_v1.0_*.json` | scanqa |
| `v1_balanced_questions_*.json` or `..._sqa_annotations_*.json` (the other beside it) | sqa3d |
| VSI-Bench's `test-*.parquet`, JSON or JSON lines | vsi |
| the released `*_llava_style.json`, Scan2Cap's too | as its metadata says |
| `*_gt_box.json`, `*_pred_box.json` | candidate boxes |

Source: the projects' own data folders; H-EmbodVis/VEGA-3D @ 9c96924, scripts/3d/preprocessing.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vega3d.evaluate.benchmarks.boxes import check_box
from vega3d.evaluate.benchmarks.files import Record, read_records
from vega3d.evaluate.benchmarks.scanrefer import kind_of, question_of, scene_of
from vega3d.evaluate.benchmarks.sqa3d import read_questions as read_sqa3d
from vega3d.evaluate.benchmarks.vsi import read_questions as read_vsi
from vega3d.pipeline.errors import UsageError
from vega3d.train.annotations.item import Annotations, Box, Item

_LLAVA = {
    "scanrefer": "scanrefer",
    "multi3drefer": "multi3drefer",
    "scan2cap": "scan2cap",
    "scanqa": "scanqa",
    "sqa3d": "sqa3d",
}
_SPLIT = re.compile(r"(?:^|[_\-.])(train|val|test)(?=[_\-.]|$)")
Candidates = Mapping[str, tuple[Box, ...]]


def read_annotations(paths: Sequence[str | Path]) -> Annotations:
    """Return the items of files, and of the files in folders; raises UsageError for a bad one."""
    files = [file for path in paths for file in _files(Path(path))]
    candidates: dict[str, tuple[Box, ...]] = {}
    rest = []
    for file in files:
        if file.name.endswith("_box.json"):
            candidates |= _read_boxes(file)
        else:
            rest.append(file)
    items = tuple(item for file in rest for item in read_items(file, candidates))
    if not items:
        raise UsageError(f"there are no questions in {', '.join(str(path) for path in paths)}")
    return Annotations(items=items, candidates=candidates)


def read_items(path: Path, candidates: Candidates) -> list[Item]:
    """Return the items of one file."""
    split = _split_of(path)
    if "_questions_" in path.name or "_sqa_annotations_" in path.name:
        return _sqa3d(path, split)
    records = read_vsi(path) if path.suffix == ".parquet" else read_records(path)
    return [_item(record, split, candidates, number) for number, record in enumerate(records)]


def _item(record: Record, split: str, candidates: Candidates, number: int) -> Item:
    fields = record.fields
    make: Callable[..., Item]
    if "conversations" in fields:
        make = _released
    elif "ground_truth" in fields:
        make = _vsi
    elif "object_ids" in fields and "description" in fields:
        make = _multi3drefer
    elif "description" in fields:
        make = _scanrefer
    elif "answers" in fields and "question" in fields:
        make = _scanqa
    else:
        raise UsageError(
            f"{record.where}: is a record of no benchmark known here; it has the fields "
            f"{sorted(fields)}"
        )
    return make(record, split, candidates, number)


def _scanrefer(record: Record, split: str, candidates: Candidates, number: int) -> Item:
    scene_id = scene_of(record)
    return Item(
        benchmark="scanrefer",
        item_id=f"{scene_id}|{record.text('object_id')}|{record.text('ann_id')}",
        scene_id=scene_id,
        split=split,
        text=record.text("description"),
        kind=str(record.fields.get("eval_type", "")),
        boxes=_named_boxes(record, scene_id, [record.get("object_id")], candidates),
        needs=_needs(record),
    )


def _multi3drefer(record: Record, split: str, candidates: Candidates, number: int) -> Item:
    scene_id, objects = scene_of(record), record.get("object_ids")
    if not isinstance(objects, list):
        raise UsageError(f"{record.where}: object_ids must be a list, got {objects!r:.60}")
    return Item(
        benchmark="multi3drefer",
        item_id=f"{scene_id}|{record.text('ann_id')}|{number}",
        scene_id=scene_id,
        split=split,
        text=record.text("description"),
        kind=record.text("eval_type"),
        boxes=_named_boxes(record, scene_id, objects, candidates),
        needs=_needs(record),
    )


def _scanqa(record: Record, split: str, candidates: Candidates, number: int) -> Item:
    return Item(
        benchmark="scanqa",
        item_id=record.text("question_id"),
        scene_id=scene_of(record),
        split=split,
        text=record.text("question"),
        answers=record.texts("answers"),
        needs=_needs(record),
    )


def _vsi(record: Record, split: str, candidates: Candidates, number: int) -> Item:
    options = record.fields.get("options")
    return Item(
        benchmark="vsi",
        item_id=record.text("id"),
        scene_id=record.text("scene_name", "scene_id"),
        split=split,
        text=record.text("question"),
        answers=(record.text("ground_truth"),),
        options=() if options is None else tuple(str(option) for option in options),
        kind=record.text("question_type"),
        needs=_needs(record),
    )


def _sqa3d(path: Path, split: str) -> list[Item]:
    name = path.name.replace("_sqa_annotations_", "_questions_")
    needs = {
        record.text("question_id"): _needs(record) for record in read_records(path.with_name(name))
    }
    return [
        Item(
            benchmark="sqa3d",
            item_id=key,
            scene_id=query.scene_id,
            split=split,
            text=query.question,
            answers=(query.truth,),
            kind=query.kind,
            needs=needs[key],
        )
        for key, query in read_sqa3d(path).items()
    ]


def _released(record: Record, split: str, candidates: Candidates, number: int) -> Item:
    inner = record.fields.get("metadata")
    name = str(inner.get("dataset", "")).lower() if isinstance(inner, Mapping) else ""
    if name not in _LLAVA or not isinstance(inner, Mapping):
        raise UsageError(
            f"{record.where}: metadata.dataset must be one of {sorted(_LLAVA)}, got {name!r}"
        )
    turns = record.get("conversations")
    said = str(turns[-1].get("value", ""))
    answers: tuple[str, ...] = ()
    if name in ("scanqa", "sqa3d"):
        answers = tuple(str(each) for each in inner.get("answers") or [said])
    if name == "scan2cap":
        answers = record.texts("annotations") if record.has("annotations") else (said,)
    return Item(
        benchmark=_LLAVA[name],
        item_id=record.text("id", "sample_id"),
        scene_id=scene_of(record),
        split=split,
        text="" if name == "scan2cap" else question_of(record),
        answers=answers,
        kind=kind_of(record, "unknown"),
        boxes=_released_boxes(record, name),
        needs=_needs(record),
    )


def _released_boxes(record: Record, name: str) -> tuple[Box, ...] | None:
    if name in ("scanqa", "sqa3d"):
        return None
    if name == "multi3drefer":
        boxes = record.fields.get("box")
        if not isinstance(boxes, list):
            raise UsageError(f"{record.where}: box must be a list of boxes, got {boxes!r:.60}")
        return tuple(_box(each, record.where) for each in boxes)
    if name == "scan2cap" and not record.has("box_input", "gt_box", "box"):
        return None  # no proposal overlaps the object: its caption stays empty
    fields = ("box_input", "gt_box", "box") if name == "scan2cap" else ("box",)
    return (_box(record.get(*fields), record.where),)


def _named_boxes(
    record: Record, scene_id: str, objects: Sequence[Any], candidates: Candidates
) -> tuple[Box, ...]:
    if scene_id not in candidates:
        raise UsageError(
            f"{record.where}: names objects without boxes; give a file of boxes too "
            f"(scannet_train_gt_box.json) that has {scene_id}"
        )
    boxes = candidates[scene_id]
    try:
        return tuple(boxes[int(number)] for number in objects)
    except (ValueError, TypeError, IndexError) as error:
        raise UsageError(
            f"{record.where}: objects {objects!r:.60} are not among the {len(boxes)} boxes of "
            f"{scene_id}"
        ) from error


def _read_boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(document, dict) or not all(isinstance(v, list) for v in document.values()):
        raise UsageError(f"{path}: must hold a list of boxes for every scene")
    return {
        name.rsplit("/", 1)[-1]: tuple(_box(box, f"{path}, {name}") for box in boxes)
        for name, boxes in document.items()
    }


def _box(value: Any, where: str) -> Box:  # noqa: ANN401 - any JSON value
    x, y, z, dx, dy, dz = check_box(value, where).tolist()
    return x, y, z, dx, dy, dz


def _files(path: Path) -> list[Path]:
    """Return a file, or a folder's files: of two forms of one benchmark the one with boxes."""
    if not path.is_dir():
        if not path.exists():
            raise UsageError(f"{path}: there is no such file or folder")
        return [path]
    patterns = (
        "*_box.json",
        "*_llava_style.json",
        "ScanQA_v1.0_*.json",
        "v1_balanced_questions_*.json",
        "vsi_*.jsonl",
        "*.parquet",
    )
    return [file for pattern in patterns for file in sorted(path.glob(pattern))]


def _split_of(path: Path) -> str:
    found = _SPLIT.findall(path.name)
    return found[-1] if found else ""


def _needs(record: Record) -> str:
    return str(record.fields.get("needs", ""))
