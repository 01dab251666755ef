"""Published files as they are: what each record becomes, and what is said of bad ones."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vega3d.evaluate.benchmarks.config import MakingConfig
from vega3d.evaluate.benchmarks.made.making import make
from vega3d.pipeline.errors import UsageError
from vega3d.train.annotations.joining import join
from vega3d.train.annotations.published import read_annotations

BOX = [1.0, 2.0, 0.5, 0.4, 0.4, 1.0]
OTHER = [0.0, 0.0, 0.5, 1.0, 2.0, 1.0]


def file(folder: Path, name: str, content: Any) -> Path:  # noqa: ANN401 - any JSON value
    (folder / name).write_text(json.dumps(content))
    return folder / name


def llava(name: str, answer: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    metadata = {"dataset": name, "question_type": "what", **more.pop("metadata", {})}
    turns = [{"value": "<image>\nWhat is it?", "from": "human"}, {"value": answer, "from": "gpt"}]
    return {"id": "q1", "video": "scannet/scene0000_00", "conversations": turns,
            "metadata": metadata, **more}  # fmt: skip


def test_scanrefer_takes_its_boxes_from_a_file_of_boxes(tmp_path: Path) -> None:
    record = {"scene_id": "scene0000_00", "object_id": "1", "object_name": "chair", "ann_id": "3",
              "description": "the red chair", "token": ["the"]}  # fmt: skip
    path = file(tmp_path, "ScanRefer_filtered_train.json", [record])
    boxes = file(tmp_path, "scannet_train_gt_box.json", {"scannet/scene0000_00": [OTHER, BOX]})
    (item,) = read_annotations([path, boxes]).items
    assert (item.benchmark, item.split, item.scene_id) == ("scanrefer", "train", "scene0000_00")
    assert item.text == "the red chair"
    assert item.boxes == (tuple(BOX),)
    with pytest.raises(UsageError, match="names objects without boxes; give a file of boxes"):
        read_annotations([path])
    record["object_id"] = "2"
    file(tmp_path, path.name, [record])
    with pytest.raises(UsageError, match="not among the 2 boxes of scene0000_00"):
        read_annotations([path, boxes])


def test_multi3drefer_may_have_no_target(tmp_path: Path) -> None:
    records = [
        {"scene_id": "scene0000_00", "object_ids": ids, "ann_id": 0, "description": "chairs",
         "eval_type": kind}
        for ids, kind in (([], "zt_wo_d"), ([0, 1], "mt"))
    ]  # fmt: skip
    path = file(tmp_path, "multi3drefer_val.json", records)
    boxes = file(tmp_path, "scannet_val_pred_box.json", {"scannet/scene0000_00": [OTHER, BOX]})
    zero, two = read_annotations([path, boxes]).items
    assert (zero.boxes, zero.kind) == ((), "zt_wo_d")
    assert two.boxes == (tuple(OTHER), tuple(BOX))


def test_questions_of_scanqa_and_vsi(tmp_path: Path) -> None:
    scanqa = {"scene_id": "scene0000_00", "question_id": "val-0", "question": "What is it?",
              "answers": ["a chair", "chair"], "object_ids": [1]}  # fmt: skip
    vsi = {"id": 7, "dataset": "scannet", "scene_name": "scene0001_00", "question": "Which?",
           "question_type": "object_rel_distance", "ground_truth": "B",
           "options": ["A. chair", "B. table"]}  # fmt: skip
    first = file(tmp_path, "ScanQA_v1.0_val.json", [scanqa])
    second = tmp_path / "vsi_test.jsonl"
    second.write_text(json.dumps(vsi))
    words, choice = read_annotations([first, second]).items
    assert words.answers == ("a chair", "chair")
    assert (choice.answers, choice.options) == (("B",), ("A. chair", "B. table"))
    assert (choice.item_id, choice.split, choice.kind) == ("7", "test", "object_rel_distance")


def test_vsi_is_read_from_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    row = {"id": 1, "scene_name": "a", "question_type": "object_counting", "question": "How many?",
           "ground_truth": "3", "options": None}  # fmt: skip
    write_table(pa.Table.from_pylist([row]), tmp_path / "test-00000-of-00001.parquet")
    (item,) = read_annotations([tmp_path]).items
    assert (item.answers, item.options) == (("3",), ())


@pytest.mark.parametrize(
    ("name", "record", "answers"),
    [
        ("scanqa", llava("scanQA", "chair", metadata={"answers": ["chair", "a chair"]}),
         ("chair", "a chair")),
        ("sqa3d", llava("sqa3d", "left"), ("left",)),
        ("scan2cap", llava("scan2cap", "a chair.", gt_box=BOX, annotations=["a chair.", "red."]),
         ("a chair.", "red.")),
        ("scanrefer", llava("scanrefer", "<ground>", box=BOX), ()),
        ("multi3drefer", llava("multi3drefer", "<ground>", box=[]), ()),
    ],
)  # fmt: skip
def test_released_records(
    name: str, record: dict[str, Any], answers: tuple[str, ...], tmp_path: Path
) -> None:
    (item,) = read_annotations([file(tmp_path, f"{name}_val_llava_style.json", [record])]).items
    assert (item.benchmark, item.answers, item.split) == (name, answers, "val")
    assert item.text == ("" if name == "scan2cap" else "What is it?")
    expected = {"scan2cap": (tuple(BOX),), "scanrefer": (tuple(BOX),), "multi3drefer": ()}
    assert item.boxes == expected.get(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"text": "?"}], "record 1: is a record of no benchmark known here"),
        ([llava("nr3d", "x")], "metadata.dataset must be one of"),
        ([llava("scanrefer", "x", box=[1, 2])], "a box must be 6 numbers"),
        ([llava("multi3drefer", "x", box={})], "box must be a list of boxes"),
    ],
)
def test_a_bad_record_is_named(content: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_annotations([file(tmp_path, "x_val.json", content)])


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        read_annotations([tmp_path / "none.json"])
    with pytest.raises(UsageError, match="there are no questions"):
        read_annotations([tmp_path])
    with pytest.raises(UsageError, match="must hold a list of boxes for every scene"):
        read_annotations([file(tmp_path, "a_box.json", {"scene": 1})])


def test_what_rooms_make_is_read_back(tmp_path: Path) -> None:
    made = make("rooms:4?views=8", tmp_path, MakingConfig(val_share=0.5))
    read = read_annotations([tmp_path])
    counts = Counter((item.benchmark, item.split) for item in read.items)
    names = ("scanrefer", "multi3drefer", "scan2cap", "scanqa", "sqa3d", "vsi")
    assert counts == {
        (name, split): made[name][split]["questions"]
        for name in names
        for split in ("train", "val")
        if made[name][split]["questions"]
    }
    assert {item.needs for item in read.items} <= {"geometry", "appearance", "both"}
    assert len(read.candidates) == 4


def test_scenes_that_a_store_lacks_are_counted_and_named(tmp_path: Path) -> None:
    records = [llava("scanqa", "chair", id=f"q{i}", video=f"scannet/scene{i}") for i in (0, 1, 1)]
    items = read_annotations([file(tmp_path, "scanqa_val_llava_style.json", records)]).items
    found, notes = join(items, ["other/scene0", "scene7"])
    assert list(found) == ["other/scene0"]
    assert notes == (
        "2 of 3 questions are about 1 scenes that the stores lack, such as scene1",
        "1 scenes of the stores have no question",
    )
    with pytest.raises(UsageError, match="none of the 2 scenes that are asked about"):
        join(items, ["scene7"])


def test_the_published_sqa3d_test_split_is_read(data: Path) -> None:
    items = read_annotations([data / "annotations" / "sqa3d"]).items
    assert len(items) == 3519
    assert {item.kind for item in items} == {"what", "is", "how", "can", "which", "others"}
    assert items[0].answers == ("piano",)
    assert items[0].text.startswith("I am standing by the ottoman")
