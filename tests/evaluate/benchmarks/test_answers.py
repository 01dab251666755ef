"""Questions: SQA3D, ScanQA, VSI-Bench and LIBERO, and how answers are cleaned."""

import json
from pathlib import Path

import numpy as np
import pytest
from record_files import Write

from vega3d.evaluate.benchmarks.catalogue import score
from vega3d.evaluate.benchmarks.cleaning import clean_answer, contains, first_number, option_letter
from vega3d.evaluate.benchmarks.libero import wilson
from vega3d.evaluate.benchmarks.sqa3d import read_questions
from vega3d.evaluate.benchmarks.vsi import relative_accuracy, worth_of
from vega3d.pipeline.errors import UsageError


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("The brown table.", "brown table"),
        ("  A  chair ", "chair"),
        ("2", "two"),
        ("22", "22"),
        ("23", "twenty-three"),
        ("None", "zero"),
        ("TV", "TV"),
        ("mat2", "mat"),
        ("three o' clock", "three o'clock"),
        ("BACKWARDS", "backward"),
        ("letf", "left"),
        ("caf\u00e9", "caf"),
        ("a", "a"),  # an article with nothing after it stays
        # As the official function printed them:
        ("it\u2019s", "its"),
        ("\u6905\u5b50", ""),
        ("\u0660", ""),  # an Arabic zero is no digit here
        ("three oclock", "three o'clock"),
        ("chair 2", "chair two"),
        ("b12", "b12"),
        ("10:30", "ten:30"),
        ("the the chair", "the chair"),
        ("an hour, the end", "hour, end"),
        ("A\n chair", "a\n chair"),
        ("x.  y", "x y"),
        ("CHAI", "chair"),
        ("", ""),
    ],
)
def test_cleaning(text: str, cleaned: str) -> None:
    assert clean_answer(text) == cleaned


def test_refined_match_takes_containment_but_nothing_from_nothing() -> None:
    assert contains("brown table", "table")
    assert contains("tv", "a tv stand")
    assert contains("", "")
    assert not contains("", "table")
    assert not contains("chair", "table")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B) chair", "B"),
        ("A)", "A"),
        ("a. chair", "A"),
        ("Answer: C.", "C"),
        ("The correct answer is D", "D"),
        ("chair", ""),
        ("", ""),
    ],
)
def test_letters(text: str, letter: str) -> None:
    assert option_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("about 3.5 meters", 3.5),
        ("three chairs", 3.0),
        ("1,200 mm", 1200.0),
        ("-2", -2.0),
        ("1e2", 100.0),
        (".5 m", 0.5),
        ("twelve", 12.0),
        ("many", None),
        ("", None),
    ],
)
def test_numbers(text: str, number: float | None) -> None:
    assert first_number(text) == number


VSI_CASES = [
    # question type, answer, truth, official, lenient
    ("object_rel_distance", "A", "A", 1, 1),
    ("object_rel_distance", "a.", "A", 1, 1),
    ("object_rel_distance", "A. chair", "A", 1, 1),
    ("object_rel_distance", "A)", "A", 0, 1),
    ("object_rel_distance", "(B) chair", "B", 0, 1),
    ("object_rel_distance", "", "B", 0, 0),
    ("route_planning", "The answer is C", "C", 0, 1),
    ("object_counting", "3", "3", 1, 1),
    ("object_counting", "three", "3", 0, 1),
    ("object_abs_distance", "about 3.5 meters", "3.5", 0, 1),
    ("object_abs_distance", "3.5 meters", "3.5", 1, 1),
    ("object_abs_distance", "nan", "3.5", 0, 0),
    ("room_size_estimation", "30", "20", 0.1, 0.1),  # an error of exactly 0.5: one of ten counts
    ("room_size_estimation", "0", "20", 0, 0),
]


@pytest.mark.parametrize(("kind", "answer", "truth", "official", "lenient"), VSI_CASES)
def test_vsi_answers(kind: str, answer: str, truth: str, official: float, lenient: float) -> None:
    assert worth_of(answer, truth, kind, "official") == official
    assert worth_of(answer, truth, kind, "lenient") == lenient


def test_mra_counts_ties_in_the_floats_of_the_official_code() -> None:
    """|0.8 - 1| / 1 is 0.19999999999999996, under 1 - 0.8 = 0.19999999999999996: a tie counts."""
    assert relative_accuracy(0.5, 1.0) == 0.1
    assert relative_accuracy(1.0, 1.0) == 1.0
    thetas = np.linspace(0.5, 0.95, 10)
    for answer in (0.55, 0.7, 0.8, 0.95, 1.05, 1.3):
        expected = sum(abs(answer - 1.0) / 1.0 <= 1 - theta for theta in thetas) / 10
        assert relative_accuracy(answer, 1.0) == expected


def question(number: int, kind: str, truth: str, scene: str = "s") -> dict:
    return {"id": number, "scene_name": scene, "question_type": kind, "question": "?",
            "ground_truth": truth, "options": ["A. x", "B. y"]}  # fmt: skip


def test_vsi_overall_is_the_mean_over_tasks_and_directions_are_one_task(write: Write) -> None:
    truths = [
        question(0, "object_counting", "4"),
        question(1, "object_rel_direction_easy", "A"),
        question(2, "object_rel_direction_easy", "A"),
        question(3, "object_rel_direction_medium", "A"),
        question(4, "object_rel_direction_hard", "A"),
    ]
    answers = [{"id": i, "prediction": p} for i, p in enumerate(["4", "A", "B", "A", "B"])]
    found = score("vsi", write("t.jsonl", truths), write("p.jsonl", answers)).values
    assert found["mra object_counting"] == 100
    assert found["accuracy object_rel_direction"] == pytest.approx(100 * (0.5 + 1 + 0) / 3)
    assert found["score overall"] == pytest.approx((100 + 50) / 2)


def test_vsi_reads_its_parquet(write: Write, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([question(7, "object_counting", "4")])
    parquet.write_table(table, tmp_path / "test.parquet")
    answers = write("p.json", [{"id": 7, "prediction": "5"}])
    found = score("vsi", tmp_path / "test.parquet", answers)
    assert found.values["mra object_counting"] == pytest.approx(60)  # 25 % off: 6 of 10


def test_vsi_refuses_truths_that_cannot_be_divided_by(write: Write) -> None:
    truths = write("t.json", [question(0, "object_counting", "0")])
    with pytest.raises(UsageError, match="record 1: ground_truth must be a number above 0"):
        score("vsi", truths, write("p.json", [{"id": 0, "prediction": "1"}]))


def scanqa(number: int, answers: list[str], text: str = "Where is it?") -> dict:
    return {"question_id": f"val-{number}", "scene_id": f"scene{number % 2}", "question": text,
            "answers": answers}  # fmt: skip


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR takes ten seconds to start."""
    monkeypatch.setenv("PATH", "")


@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize(
    ("protocol", "answer", "right"),
    [
        ("released", "brown table", True),
        ("released", "brown table.", False),
        ("released", "The brown table", False),
        ("cleaned", "The brown table.", True),
        ("cleaned", "table", False),
        ("refined", "table", True),
        ("refined", "", False),
    ],
)
def test_scanqa_exact_match(write: Write, protocol: str, answer: str, right: bool) -> None:
    truths = write("t.json", [scanqa(0, ["brown table", "desk"]), scanqa(1, ["red"], "What color")])
    answers = write("p.json", [{"question_id": "val-0", "answer": answer},
                               {"question_id": "val-1", "answer": "red"}])  # fmt: skip
    found = score("scanqa", truths, answers, protocol).values
    assert found["em place"] == 100 * right
    assert found["em color"] == 100


def test_sqa3d_by_first_word(write: Write) -> None:
    questions = [
        {"question_id": i, "scene_id": "s", "situation": "I sit.", "question": text}
        for i, text in enumerate(["What is it?", "Is it red?", "Where am I?"])
    ]
    truths = [{"question_id": i, "answers": [{"answer": text}]}
              for i, text in enumerate(["table", "no", "left"])]  # fmt: skip
    path = write("v1_balanced_questions_x.json", questions)
    write("v1_balanced_sqa_annotations_x.json", truths)
    answers = [{"question_id": 0, "answer": "the table"}, {"question_id": 1, "answer": "yes"}]
    found = score("sqa3d", path, write("p.json", answers))
    assert found.values == pytest.approx(
        {"em overall": 100 / 3, "em what": 100, "em is": 0, "em others": 0}
    )
    assert found.missing == ("2",)
    assert score("sqa3d", path, write("p.json", answers), "raw").values["em what"] == 0


def test_the_real_sqa3d_test_split_is_scored_by_question_type(data: Path, write: Write) -> None:
    """Made-up predictions: every question's own answer for half of them, `yes` for the others."""
    path = data / "annotations" / "sqa3d" / "v1_balanced_questions_test_scannetv2.json"
    questions = read_questions(path)
    assert len(questions) == 3519
    answers = [
        {"question_id": key, "answer": query.truth if number % 2 else "yes"}
        for number, (key, query) in enumerate(questions.items())
    ]
    found = score("sqa3d", path, write("p.jsonl", answers))
    kinds = {query.kind for query in questions.values()}
    assert kinds == {"what", "is", "how", "can", "which", "others"}
    assert {m.group for m in found.measures} == {"overall", *kinds}
    sizes = {m.group: int(m.statistics[:, 1].sum()) for m in found.measures}
    assert sizes["overall"] == 3519 == sum(sizes[kind] for kind in kinds)
    assert found.values["em is"] > found.values["em what"] > 45


def test_libero_is_the_mean_over_suites(write: Write) -> None:
    episodes = [
        {"suite": suite, "task": "pick", "episode": i, "success": i < wins}
        for suite, count, wins in (("libero_goal", 4, 4), ("libero_10", 2, 1))
        for i in range(count)
    ]
    found = score("libero", "", write("p.jsonl", episodes)).values
    assert found == {"success overall": 75, "success libero_goal": 100, "success libero_10": 50}
    episodes[0]["success"] = "yes"
    with pytest.raises(UsageError, match="line 1: success must be true or false, got 'yes'"):
        score("libero", "", write("p.jsonl", episodes))


def test_wilson_interval() -> None:
    """Worked by hand for 5 of 10: (0.5 + 0.192) / 1.384 -+ 1.96 sqrt(0.025 + 0.0096) / 1.384."""
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 0) == (0, 1)
    assert wilson(10, 10)[1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"question_id": 1, "answer": "a"}\n{"question_id": 1', "line 2: no JSON"),
        ('[{"question_id": 1, "answer": ["a"]}]', "record 1: answer must be text"),
        ('[{"question_id": 1, "answer": "\\ud83d chair"}]', "record 1: answer .* half a character"),
        ('[{"question_id": 1}]', "record 1: needs the field answer or pred_response"),
        ('[{"answer": "a"}]', "record 1: needs the field question_id or sample_id or id"),
        ('[{"question_id": 1, "answer": "a"}, {"question_id": 1, "answer": "b"}]', "'1' is there"),
        ('[{"question_id": 9, "answer": "a"}]', "1 predictions are for queries that"),
        ("[1]", "record 1: must be an object"),
        ("", "is empty"),
        ("3", "must hold a list of records"),
    ],
)
def test_malformed_predictions_name_line_and_field(
    write: Write, tmp_path: Path, text: str, told: str
) -> None:
    question = {"question_id": 1, "scene_id": "s", "situation": "I sit.", "question": "What?"}
    path = write("v1_balanced_questions_x.json", [question])
    write("v1_balanced_sqa_annotations_x.json", [{"question_id": 1, "answers": [{"answer": "a"}]}])
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UsageError, match=f"p.json.*{told}"):
        score("sqa3d", path, tmp_path / "p.json")


def test_no_question_and_no_answer_are_files_too(write: Write) -> None:
    """A room about which nothing could be asked; a model that never answered."""
    nothing = {"info": {}, "data_type": "x", "questions": []}
    path = write("v1_balanced_questions_x.json", nothing)
    write("v1_balanced_sqa_annotations_x.json", {"info": {}, "annotations": []})
    assert score("sqa3d", path, write("p.json", [])).queries == ()
    truths = write("t.jsonl", [question(0, "object_counting", "4")])
    found = score("vsi", truths, write("p.json", []))
    assert (found.missing, found.values["score overall"]) == (("0",), 0)


@pytest.mark.usefixtures("no_java")
def test_unicode_answers_survive(write: Write, tmp_path: Path) -> None:
    truths = [scanqa(0, ["caf\u00e9 table"])]
    (tmp_path / "p.json").write_text(
        json.dumps([{"question_id": "val-0", "answer": "caf\u00e9 table"}], ensure_ascii=False),
        encoding="utf-8-sig",
    )
    assert score("scanqa", write("t.json", truths), tmp_path / "p.json").values["em overall"] == 100
