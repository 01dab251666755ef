"""Caption metrics: against the package's own numbers, and Scan2Cap's protocols."""

import math
import shutil

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from record_files import Write

from vega3d.evaluate.benchmarks.captions import caption_measures, tokenise
from vega3d.evaluate.benchmarks.catalogue import score

UNIT, FAR = [0, 0, 0, 1, 1, 1], [9, 0, 0, 1, 1, 1]
WORDS = ["the", "a", "chair", "table", "is", "left", "of", "brown", "wooden", "door", "near"]

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR and PTB need Java")


def texts(count: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    rng = np.random.default_rng(0)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, 12)))

    references = {str(i): [sentence() for _ in range(rng.integers(1, 4))] for i in range(count)}
    answers = {str(i): [references[str(i)][0] if i % 4 == 0 else sentence()] for i in range(count)}
    answers["1"] = [""]
    return references, answers


def test_measures_equal_the_package_run_as_a_whole() -> None:
    references, answers = texts(60)
    measures, cider = caption_measures(references, answers, meteor=False)
    found = {measure.name: measure.value for measure in measures}
    bleu, _ = Bleu(4).compute_score(references, answers, verbose=0)
    total, each = Cider().compute_score(references, answers)
    assert found == pytest.approx(
        {
            "cider overall": 100 * total,
            **{f"bleu-{n} overall": 100 * bleu[n - 1] for n in range(1, 5)},
            "rouge-l overall": 100 * Rouge().compute_score(references, answers)[0],
        },
        rel=1e-9,
    )
    np.testing.assert_array_equal(cider, each)


def test_bleu_by_hand() -> None:
    """Two of three words right, one of two pairs, and a reference that is one word longer."""
    references, answers = {"a": ["the red chair left"]}, {"a": ["the red table"]}
    measures, _ = caption_measures(references, answers, meteor=False)
    found = {measure.name: measure.value for measure in measures}
    brevity = math.exp(1 - 4 / 3)
    assert found["bleu-1 overall"] == pytest.approx(100 * brevity * 2 / 3, rel=1e-6)
    assert found["bleu-2 overall"] == pytest.approx(100 * brevity * math.sqrt(2 / 3 / 2), rel=1e-6)


@needs_java
@pytest.mark.slow
def test_meteor_is_the_programs_number() -> None:
    references, answers = texts(8)
    measures, _ = caption_measures(references, answers, meteor=True)
    found = {measure.name: measure.value for measure in measures}
    assert 10 < found["meteor overall"] < 100


@needs_java
@pytest.mark.slow
def test_a_line_break_in_a_text_is_a_space_to_meteor() -> None:
    references = {"a": ["the brown chair"], "b": ["the brown\nchair"], "c": ["the brown chair"]}
    answers = {"a": ["the\nchair"], "b": ["the chair"], "c": ["the chair"]}
    *_, meteor = caption_measures(references, answers, meteor=True)[0]
    assert meteor.metric == "meteor"
    assert np.ptp(meteor.statistics[:, 0]) < 1e-9


@needs_java
def test_ptb_tokens_are_lower_case_without_punctuation() -> None:
    assert tokenise({"a": ["The chair, brown."]}) == {"a": ["the chair brown"]}


@needs_java
def test_no_line_break_moves_a_text_to_another_id() -> None:
    """Java's tokeniser ends a line at more characters than the package takes out."""
    breaks = ("\n", "\r", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029")
    texts = {f"{number}": [f"one{each}two"] for number, each in enumerate(breaks)}
    assert tokenise({**texts, "last": ["end"]}) == {
        **{key: ["one two"] for key in texts},
        "last": ["end"],
    }


def caption(name: str, captions: list[str], box: list[float] = UNIT) -> dict:
    return {"id": name, "scene_id": "scene0000_00", "captions": captions, "box": box}


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


@pytest.mark.usefixtures("no_java")
def test_scan2cap_empties_captions_of_boxes_not_found(write: Write) -> None:
    text = "the brown chair near the table by the door"
    truths = write("t.json", [caption("a", [text]), caption("b", [f"{text} too"])])
    answers = [
        {"id": "a", "caption": text, "box": UNIT},
        {"id": "b", "caption": f"{text} too", "box": FAR},
    ]
    found = score("scan2cap", truths, write("p.json", answers))
    assert [query.kind for query in found.queries] == ["found", "not found"]
    assert found.queries[1].answer == ""
    alone = score("scan2cap", truths, write("p.json", answers), "found-only")
    assert len(alone.queries) == 1
    assert alone.values["bleu-4 overall"] == pytest.approx(100)
    assert found.values["bleu-4 overall"] < 60


@pytest.mark.usefixtures("no_java")
def test_scan2cap_at_exactly_half_an_overlap(write: Write) -> None:
    """With 1e-8 in the union, half a box lies below 0.5 in both protocols: it is not found."""
    truths = write("t.json", [caption("a", ["a chair"])])
    half = [{"id": "a", "caption": "a chair", "box": [0, 0, 0.25, 1, 1, 0.5]}]
    for protocol in ("released", "scan2cap"):
        found = score("scan2cap", truths, write("p.json", half), protocol)
        assert found.queries[0].kind == "not found"


@pytest.mark.usefixtures("no_java")
def test_without_java_meteor_is_left_out_with_a_word(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    truths = write("t.json", [caption("a", ["a chair"])])
    found = score("scan2cap", truths, write("p.json", [{"id": "a", "caption": "a chair"}]))
    assert "meteor overall" not in found.values
    assert "METEOR is left out: it needs Java" in caplog.text
