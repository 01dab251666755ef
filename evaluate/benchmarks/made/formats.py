"""Questions as the published files hold them, with `needs`, `template` and `chance` beside.

Names and fields are those of the benchmarks' own files and of the released `*_llava_style.json`;
`video` is `rooms/room0000`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vega3d.evaluate.benchmarks.made.facts import Facts
from vega3d.evaluate.benchmarks.made.question import Question

Records = list[dict[str, Any]]
Files = dict[str, Any]
"""What each file holds, by name; lists in files that end in .jsonl are written as lines."""

_LETTERS = "ABCDEFGH"


def question_ids(questions: Sequence[Question]) -> list[str]:
    """Return an id for every question, in order: benchmark, room and number within the room."""
    counts: dict[str, int] = {}
    found = []
    for question in questions:
        number = counts[question.scene_id] = counts.get(question.scene_id, -1) + 1
        found.append(f"{question.benchmark}-{question.scene_id}-{number:03d}")
    return found


def files_of(
    benchmark: str, split: str, questions: Sequence[Question], rooms: Mapping[str, Facts]
) -> Files:
    """Return the files of one benchmark's split."""
    write: Callable[..., Files] = _WRITERS[benchmark]
    return write(split, list(zip(question_ids(questions), questions, strict=True)), rooms)


def boxes_file(split: str, rooms: Mapping[str, Facts]) -> Files:
    """Return the candidate boxes of a split: all things of a room, in the order of their ids."""
    boxes = {_video(name): [t.box.tolist() for t in facts.things] for name, facts in rooms.items()}
    return {f"rooms_{split}_gt_box.json": boxes}


Numbered = Sequence[tuple[str, Question]]


def _scanrefer(split: str, questions: Numbered, rooms: Mapping[str, Facts]) -> Files:
    published, released = [], []
    for key, question in questions:
        thing = question.more["thing"]
        beside = {"object_id": str(thing.number), "ann_id": key.rsplit("-", 1)[1]}
        published.append(
            {
                "scene_id": question.scene_id,
                **beside,
                "object_name": thing.label,
                "description": question.text,
                "token": question.text.split(),
                "eval_type": question.kind,
                **_beside(question),
            }
        )
        record = _llava(key, question, "<ground>", {"dataset": "scanrefer", **beside})
        released.append({**record, "box": thing.box.tolist()})
    return {
        f"ScanRefer_filtered_{split}.json": published,
        f"scanrefer_vg_{split}_llava_style.json": released,
    }


def _multi3drefer(split: str, questions: Numbered, rooms: Mapping[str, Facts]) -> Files:
    published, released = [], []
    for key, question in questions:
        things = rooms[question.scene_id].things
        beside = {"object_ids": list(question.targets), "ann_id": key.rsplit("-", 1)[1]}
        published.append(
            {
                "scene_id": question.scene_id,
                **beside,
                "object_name": question.more["label"],
                "description": question.text,
                "eval_type": question.kind,
                **_beside(question),
            }
        )
        inner = {"dataset": "multi3drefer", "object_id": beside["object_ids"], "ann_id": key}
        record = _llava(key, question, "<ground>", inner)
        boxes = [things[number].box.tolist() for number in question.targets]
        released.append({**record, "box": boxes})
    return {
        f"multi3drefer_{split}.json": published,
        f"multi3drefer_{split}_llava_style.json": released,
    }


def _scan2cap(split: str, questions: Numbered, rooms: Mapping[str, Facts]) -> Files:
    records = []
    for key, question in questions:
        box = question.more["thing"].box.tolist()
        inner = {"dataset": "scan2cap", "object_id": str(question.targets[0])}
        records.append(
            {
                **_llava(key, question, question.answer, inner),
                "box_input": box,
                "gt_box": box,
                "annotations": question.more["captions"],
            }
        )
    return {f"scan2cap_{split}_llava_style.json": records}


def _scanqa(split: str, questions: Numbered, rooms: Mapping[str, Facts]) -> Files:
    records = [
        {
            "scene_id": question.scene_id,
            "question_id": key,
            "question": question.text,
            "answers": [question.answer],
            "object_ids": [],
            "object_names": [],
            **_beside(question),
        }
        for key, question in questions
    ]
    return {f"ScanQA_v1.0_{split}.json": records}


def _sqa3d(split: str, questions: Numbered, rooms: Mapping[str, Facts]) -> Files:
    asked, answered = [], []
    for key, question in questions:
        pose = {name: question.more[name] for name in ("position", "rotation")}
        place = {"scene_id": question.scene_id, "question_id": key}
        asked.append(
            {
                **place,
                "situation": question.more["situation"],
                "alternative_situation": [],
                "question": question.text,
                **_beside(question),
            }
        )
        given = {"answer": question.answer, "answer_confidence": "yes", "answer_id": 1}
        answered.append(
            {**place, "question_type": "N/A", "answer_type": "other", "answers": [given], **pose}
        )
    info = {"info": {"description": "Procedural rooms in SQA3D's format."}, "data_type": "rooms"}
    return {
        f"v1_balanced_questions_{split}_rooms.json": {**info, "questions": asked},
        f"v1_balanced_sqa_annotations_{split}_rooms.json": {**info, "annotations": answered},
    }


def _vsi(split: str, questions: Numbered, rooms: Mapping[str, Facts]) -> Files:
    records = []
    for key, question in questions:
        options, truth = None, question.answer
        if question.options:
            options = [
                f"{letter}. {text}"
                for letter, text in zip(_LETTERS, question.options, strict=False)
            ]
            truth = _LETTERS[question.options.index(question.answer)]
        records.append(
            {
                "id": key,
                "dataset": "rooms",
                "scene_name": question.scene_id,
                "question_type": question.kind,
                "question": question.text,
                "ground_truth": truth,
                "options": options,
                **_beside(question),
            }
        )
    return {f"vsi_{split}.jsonl": records}


_WRITERS: dict[str, Callable[..., Files]] = {
    "scanrefer": _scanrefer,
    "multi3drefer": _multi3drefer,
    "scan2cap": _scan2cap,
    "scanqa": _scanqa,
    "sqa3d": _sqa3d,
    "vsi": _vsi,
}
MADE = tuple(_WRITERS)
"""The benchmarks whose files are made."""


def _beside(question: Question) -> dict[str, Any]:
    return {
        "needs": question.needs,
        "template": question.template,
        "chance": round(question.chance, 6),
    }


def _llava(key: str, question: Question, answer: str, inner: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": key,
        "video": _video(question.scene_id),
        "conversations": [
            {"value": f"<image>\n{question.text}", "from": "human"},
            {"value": answer, "from": "gpt"},
        ],
        "metadata": {**inner, "question_type": question.kind or question.template},
        **_beside(question),
    }


def _video(scene_id: str) -> str:
    return f"rooms/{scene_id}"
