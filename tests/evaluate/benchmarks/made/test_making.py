"""Benchmark files from rooms: true, balanced, and of use only to who looks."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from room_oracle import Oracle
from typer.testing import CliRunner

from vega3d.evaluate.benchmarks.catalogue import score
from vega3d.evaluate.benchmarks.cli import app
from vega3d.evaluate.benchmarks.config import MakingConfig
from vega3d.evaluate.benchmarks.made.balance import choose
from vega3d.evaluate.benchmarks.made.making import make
from vega3d.evaluate.benchmarks.made.question import Question
from vega3d.evaluate.benchmarks.measures import Score
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.rooms.rooms import parse_rooms

SCENES = "rooms:30?views=16"
FILES = {
    "scanrefer": "scanrefer_vg_val_llava_style.json",
    "multi3drefer": "multi3drefer_val_llava_style.json",
    "scan2cap": "scan2cap_val_llava_style.json",
    "scanqa": "ScanQA_v1.0_val.json",
    "sqa3d": "v1_balanced_questions_val_rooms.json",
    "vsi": "vsi_val.jsonl",
}


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave METEOR out, which takes half a minute; its own tests are in test_captions.py."""
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    make(SCENES, out, MakingConfig(val_share=0.5))
    return out


def records(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    document = json.loads(text)
    return document["questions"] if isinstance(document, dict) else document


def scene_of(record: dict[str, Any]) -> str:
    return next(record[k] for k in ("scene_id", "scene_name", "video") if k in record)[-8:]


def said(record: dict[str, Any]) -> str:
    return record["conversations"][0]["value"].removeprefix("<image>\n")


ANSWER: dict[str, Callable[[Oracle, dict[str, Any]], dict[str, Any]]] = {
    "scanrefer": lambda o, r: {"box": o.box(o.referred(said(r))[0])},
    "multi3drefer": lambda o, r: {"boxes": [o.box(i) for i in o.referred(said(r))]},
    "scan2cap": lambda o, r: {"caption": o.caption(r["box_input"]), "box": r["box_input"]},
    "scanqa": lambda o, r: {"answer": o.says(r["question"])},
    "sqa3d": lambda o, r: {"answer": o.says_from(r["situation"], r["question"])},
    "vsi": lambda o, r: {"prediction": o.spatial(r["question"], r["options"])},
}


def oracle(name: str, made: Path, folder: Path) -> Score:
    """Score the answers of someone who has a plan of the room."""
    rooms, known, lines = parse_rooms(SCENES), {}, []
    for record in records(made / FILES[name]):
        scene_id = scene_of(record)
        if scene_id not in known:
            known[scene_id] = Oracle(rooms, scene_id)
        key = record.get("question_id") or record["id"]
        lines.append(json.dumps({"id": key, **ANSWER[name](known[scene_id], record)}))
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(lines))
    return score(name, made / FILES[name], path)


PERFECT = {
    "scanrefer": ("acc@0.5 overall", 100.0),
    "multi3drefer": ("f1@0.5 overall", 100.0),
    "scan2cap": ("bleu-4 overall", 100.0),
    "scanqa": ("em overall", 100.0),
    "sqa3d": ("em overall", 100.0),
    "vsi": ("score overall", 100.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PERFECT)
def test_who_reads_the_room_answers_everything(name: str, made: Path, tmp_path: Path) -> None:
    metric, best = PERFECT[name]
    scored = oracle(name, made, tmp_path)
    wrong = [q for q in scored.queries if q.worth < 0.999] if name != "scan2cap" else []
    assert wrong == []
    assert len(scored.queries) > 40
    assert scored.values[metric] == pytest.approx(best)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PERFECT.keys() - {"scan2cap"}))
def test_who_sees_no_room_stays_within_the_stated_chance(name: str, made: Path) -> None:
    chances = [record["chance"] for record in records(made / FILES[name])]
    worth = [q.worth for q in score(name, made / FILES[name], made / f"blind/{name}.jsonl").queries]
    deviation = np.sqrt(np.mean(np.multiply(chances, np.subtract(1, chances))) / len(chances))
    assert np.mean(worth) <= np.mean(chances) + 2 * deviation
    assert np.mean(chances) < 0.7


@pytest.mark.slow
def test_a_constant_caption_is_worth_little(made: Path) -> None:
    values = score("scan2cap", made / FILES["scan2cap"], made / "blind/scan2cap.jsonl").values
    assert values["bleu-4 overall"] < 60


@pytest.mark.slow
@pytest.mark.parametrize("name", PERFECT)
def test_every_question_says_what_it_needs(name: str, made: Path) -> None:
    needs = {record["needs"] for record in records(made / FILES[name])}
    assert needs <= {"geometry", "appearance", "both"}
    assert name == "scan2cap" or "geometry" in needs


@pytest.mark.slow
def test_a_geometric_description_has_others_of_its_class_in_the_room(made: Path) -> None:
    rooms = parse_rooms(SCENES)
    for record in records(made / "ScanRefer_filtered_val.json"):
        if record["needs"] == "geometry":
            labels = Oracle(rooms, record["scene_id"]).labels
            assert labels.count(record["object_name"]) > 1
            assert record["eval_type"] == "multiple"


@pytest.mark.slow
def test_all_tasks_of_vsi_are_asked(made: Path) -> None:
    kinds = {r["question_type"] for n in ("val", "train") for r in records(made / f"vsi_{n}.jsonl")}
    assert len(kinds) == 10


def test_the_command_makes_the_same_files_again(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        out = tmp_path / name
        done = CliRunner().invoke(app, ["make", "rooms:2?views=2", "--out", str(out)])
        assert done.exit_code == 0, done.output
        texts.append({p.name: p.read_text() for p in sorted(out.rglob("*.js*"))})
    assert texts[0] == texts[1]
    assert len(texts[0]) == 27


def test_questions_are_made_for_rooms_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="made for procedural rooms"):
        make("/some/captures", tmp_path, MakingConfig())


def test_of_three_options_all_stay_in_turn() -> None:
    """Thirds add up to less than they are; a choice must not end where they do."""
    ways = ("left", "right", "back")
    pool = [
        Question(
            benchmark="vsi", scene_id=f"room{n}", template="turn", needs="geometry", text=f"{n}?",
            answer=ways[n % 3], options=ways,
        )
        for n in range(900)
    ]  # fmt: skip
    kept = Counter(q.answer for q in choose(pool, 5, np.random.default_rng(0)))
    assert min(kept.values()) > 100
    assert max(kept.values()) - min(kept.values()) <= 1
