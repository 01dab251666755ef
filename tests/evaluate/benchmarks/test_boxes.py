"""Overlap of boxes, grounding with one box and with any number."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from record_files import Write

from vega3d.evaluate.benchmarks.boxes import check_box, iou
from vega3d.evaluate.benchmarks.catalogue import score
from vega3d.evaluate.benchmarks.multi3drefer import select_boxes
from vega3d.pipeline.errors import UsageError

UNIT = [0, 0, 0, 1, 1, 1]


def box(*values: float) -> np.ndarray:
    return check_box(list(values), "here")


def test_half_a_box_overlaps_by_a_half() -> None:
    half = box(0, 0, 0.25, 1, 1, 0.5)
    assert iou(box(*UNIT), half, "plain") == 0.5
    assert iou(box(*UNIT), box(2, 0, 0, 1, 1, 1), "plain") == 0
    assert iou(box(*UNIT), box(*UNIT), "plain") == 1


def test_at_the_threshold_the_protocols_disagree() -> None:
    """Half a box is 0.5 exactly; each script's epsilon pushes it below."""
    half = box(0, 0, 0.25, 1, 1, 0.5)
    assert iou(box(*UNIT), half, "released") == 0.5 / (1 + 1e-8)
    assert 0.4999998 < iou(box(*UNIT), half, "m3dref") < 0.5
    # Ten times as large, double precision still sees 1e-8 and single precision does not.
    large, part = box(0, 0, 0, 10, 10, 10), box(0, 0, 2.5, 10, 10, 5)
    assert iou(large, part, "released") < 0.5
    assert iou(large, part, "m3dref") == 0.5


def test_boxes_without_volume_overlap_by_nothing() -> None:
    flat = box(0, 0, 0, 1, 1, 0)
    for overlap in ("released", "m3dref", "plain"):
        assert iou(flat, flat, overlap) == 0
        assert iou(flat, box(*UNIT), overlap) == 0


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([0, 0, 0, 1, 1], "6 numbers"),
        ([0, 0, 0, 1, 1, float("nan")], "finite"),
        ([0, 0, 0, 1, 1, -1], "sizes >= 0"),
        ("box", "6 numbers"),
        (None, "6 numbers"),
        ([[0, 0, 0, 1, 1, 1]], "6 numbers"),
    ],
)
def test_what_is_no_box_is_refused(value: object, told: str) -> None:
    with pytest.raises(UsageError, match=f"^pred.jsonl, line 3: .*{told}"):
        check_box(value, "pred.jsonl, line 3")


def truth(name: str, kind: str, boxes: object, scene: str = "scannet/scene0000_00") -> dict:
    return {"id": name, "video": scene, "box": boxes, "metadata": {"question_type": kind}}


def test_scanrefer_counts_hits_by_group(write: Write) -> None:
    truths = [
        truth("a", "unique", UNIT),
        truth("b", "multiple", UNIT),
        truth("c", "multiple", UNIT),
    ]
    answers = [
        {"id": "a", "box": [0, 0, 0, 1, 1, 0.9]},
        {"id": "b", "box": [0, 0, 0, 1, 1, 0.3]},
    ]
    found = score("scanrefer", write("truth.json", truths), write("pred.jsonl", answers))
    assert found.missing == ("c",)
    assert found.values == pytest.approx(
        {
            "acc@0.25 overall": 200 / 3,
            "acc@0.25 unique": 100,
            "acc@0.25 multiple": 50,
            "acc@0.5 overall": 100 / 3,
            "acc@0.5 unique": 100,
            "acc@0.5 multiple": 0,
        }
    )


def test_the_released_names_of_fields_are_read(write: Write) -> None:
    truths = write("truth.json", [truth("a", "unique", UNIT)])
    found = score(
        "scanrefer", truths, write("p.jsonl", [{"sample_id": "a", "pred_response": UNIT}])
    )
    assert found.values["acc@0.5 overall"] == 100


def test_another_question_type_is_refused(write: Write) -> None:
    truths = write("truth.json", [truth("a", "odd", UNIT)])
    with pytest.raises(UsageError, match="truth.json, record 1: question_type must be one of"):
        score("scanrefer", truths, write("p.json", [{"id": "a", "box": UNIT}]))


def shifted(x: float) -> list[float]:
    return [x, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("targets", "boxes", "f1"),
    [
        ([], [], 1),  # rightly nothing
        ([], [UNIT], 0),
        ([UNIT], [], 0),
        ([UNIT], [UNIT], 1),
        ([UNIT, shifted(5)], [UNIT], 2 / 3),
        ([UNIT], [UNIT, UNIT], 2 / 3),  # a box twice is one hit
        ([UNIT, shifted(5)], [shifted(5), UNIT, shifted(9)], 4 / 5),
    ],
)
def test_multi3drefer_f1(write: Write, targets: list, boxes: list, f1: float) -> None:
    truths = write("truth.json", [truth("q", "mt", targets)])
    found = score("multi3drefer", truths, write("p.json", [{"id": "q", "boxes": boxes}]))
    assert found.values["f1@0.25 overall"] == pytest.approx(100 * f1)
    assert found.values["f1@0.5 mt"] == pytest.approx(100 * f1)


def test_the_largest_sum_of_overlaps_is_not_the_most_hits(write: Write) -> None:
    """Pairing crosswise passes 0.25 twice; the diagonal has the larger sum and passes once."""
    targets = [shifted(0), shifted(0.55)]
    boxes = [shifted(0.0), shifted(-0.55)]
    truths = write("truth.json", [truth("q", "mt", targets)])
    answers = write("p.json", [{"id": "q", "boxes": boxes}])
    overlaps = {(i, j): iou(box(*boxes[i]), box(*targets[j]), "plain") for i, j in
                itertools.product(range(2), repeat=2)}  # fmt: skip
    assert overlaps[0, 0] + overlaps[1, 1] > overlaps[0, 1] + overlaps[1, 0]
    assert min(overlaps[0, 1], overlaps[1, 0]) >= 0.25 > overlaps[1, 1]
    assert score("multi3drefer", truths, answers).values["f1@0.25 overall"] == 50
    best = score("multi3drefer", truths, answers, "best-matching")
    assert best.values["f1@0.25 overall"] == 100


def test_a_query_without_prediction_is_wrong_even_with_zero_targets(write: Write) -> None:
    truths = write("truth.json", [truth("a", "zt_wo_d", []), truth("b", "st_w_d", [UNIT])])
    found = score("multi3drefer", truths, write("p.json", [{"id": "b", "boxes": [UNIT]}]))
    assert found.values["f1@0.5 overall"] == 50


def test_boxes_are_selected_as_the_release_does() -> None:
    """Softmax over scores / 0.07, the zero-target slot last, until 40 % are held."""
    assert select_boxes(["a", "b"], [0.1, 0.2, 0.3]) == []
    assert select_boxes(["a", "b"], [0.9, 0.2, 0.3]) == ["a"]
    # shares 0.33 each: the first alone holds less than 0.4, two hold more
    assert len(select_boxes(["a", "b"], [0.30001, 0.3, 0.3])) == 2
    assert select_boxes([], [0.3]) == []


def test_scores_that_do_not_fit_their_objects_are_refused(write: Write) -> None:
    truths = write("truth.json", [truth("q", "mt", [UNIT])])
    answers = write("p.json", [{"id": "q", "objects": [UNIT], "scores": [0.1]}])
    with pytest.raises(UsageError, match="one a box of objects and one for zero targets"):
        score("multi3drefer", truths, answers)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": "q", "box": [0, 0, 0, 1, 1, NaN]}', "a box must be finite with sizes >= 0"),
        ('{"id": "q", "box": [0, 0, 0, 1, 1, -0.1]}', "a box must be finite with sizes >= 0"),
        ('{"id": "q", "box": [0, 0, 0, 1, 1]}', "a box must be 6 numbers"),
        ('{"id": "q"}', "needs the field box or pred_response"),
        ('{"id": "a", "box": [0, 0, 0, 1, 1, 1]}', "'a' is there already"),
        ('{"id": "z", "box": [0, 0, 0, 1, 1, 1]}', "1 predictions are for queries that"),
    ],
)
def test_a_malformed_box_is_named_with_its_line(
    write: Write, tmp_path: Path, line: str, told: str
) -> None:
    truths = write("t.json", [truth("a", "unique", UNIT), truth("q", "unique", UNIT)])
    (tmp_path / "p.jsonl").write_text(f'{{"id": "a", "box": [0, 0, 0, 1, 1, 1]}}\n{line}\n')
    with pytest.raises(UsageError, match=f"p.jsonl, line 2: {told}"):
        score("scanrefer", truths, tmp_path / "p.jsonl")


def test_boxes_of_no_volume_are_hit_by_nothing(write: Write) -> None:
    flat = [0, 0, 0, 1, 1, 0]
    truths = write("t.json", [truth("a", "unique", flat), truth("b", "multiple", UNIT)])
    answers = write("p.json", [{"id": "a", "box": flat}, {"id": "b", "box": flat}])
    for protocol in ("released", "m3dref", "plain"):
        assert score("scanrefer", truths, answers, protocol).values["acc@0.25 overall"] == 0


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="benchmark must be one of scanrefer"):
        score("scanref", tmp_path, tmp_path)
    with pytest.raises(UsageError, match="--protocol of scanrefer must be one of released"):
        score("scanrefer", tmp_path, tmp_path, "official")


@pytest.mark.parametrize("name", ["scanrefer", "multi3drefer"])
def test_a_file_without_boxes_names_the_one_that_has_them(write: Write, name: str) -> None:
    """The benchmark's own: boxes are ScanNet's."""
    own = [{"scene_id": "s", "object_id": "3", "ann_id": "0", "description": "the chair"}]
    answers = write("answers.jsonl", [{"id": "0", "box": UNIT}])
    with pytest.raises(UsageError, match=f"takes {name}_vg_val|takes {name}_val_llava_style"):
        score(name, write("own.json", own), answers)
