"""Annotated questions through loader, tasks, training and the benchmarks' own metrics."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from room_stores import write_room_stores
from worlds import Stores

from vega3d.evaluate.benchmarks.catalogue import score
from vega3d.evaluate.benchmarks.config import MakingConfig
from vega3d.evaluate.benchmarks.made.making import make
from vega3d.pipeline.backbones.text import embed_texts
from vega3d.pipeline.errors import UsageError
from vega3d.train.config import RunConfig, TrainConfig
from vega3d.train.evaluation import evaluate_run
from vega3d.train.fitting import fit
from vega3d.train.pairing import pair_stores
from vega3d.train.phrases import phrases
from vega3d.train.rundir import plan_run
from vega3d.train.tasks.asking import info_nce, pool_boxes

SCENES = "rooms:4?views=6"
TASKS = ("grounding", "qa", "vsi", "caption")
CONFIG = TrainConfig(
    tasks=TASKS, hidden_dim=16, heads=2, reader_layers=0, views_per_sample=4, batch_size=2, steps=3
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stores, Path]:
    folder = tmp_path_factory.mktemp("planted")
    make(SCENES, folder / "questions", MakingConfig(val_share=0.5))
    return write_room_stores(folder, SCENES), folder / "questions"


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.slow
@pytest.mark.usefixtures("no_java")
def test_a_run_reports_the_benchmarks_own_metrics(
    planted: tuple[Stores, Path], tmp_path: Path
) -> None:
    stores, questions = planted
    out = tmp_path / "run"
    run = RunConfig(workers=0)
    summary = fit(stores.prior, stores.semantic, out, CONFIG, run, questions=[str(questions)])
    metrics, official = summary["metrics"], summary["benchmarks"]
    assert summary["split_note"] == "Split as the annotation files are: 2 to train, 2 scored."
    assert set(official) == {"scanrefer", "multi3drefer", "scanqa", "sqa3d", "vsi", "scan2cap"}
    for name, ours, theirs in (
        ("scanrefer", "grounding/acc50", "acc@0.5 overall"),
        ("multi3drefer", "grounding/f1_25", "f1@0.25 overall"),
        ("scanqa", "qa/scanqa_em", "em overall"),
        ("sqa3d", "qa/sqa3d_em", "em overall"),
    ):
        assert official[name][theirs] == pytest.approx(100 * metrics[ours], abs=1e-4)
    predictions, truth = out / "predictions/vsi.jsonl", out / "predictions/vsi_annotations.json"
    scored = score("vsi", truth, predictions)
    worth = np.mean([query.worth for query in scored.queries])
    assert worth == pytest.approx(metrics["vsi/score"], abs=1e-3)
    asked = [json.loads(line) for line in (questions / "vsi_val.jsonl").read_text().splitlines()]
    assert len(scored.queries) == len(asked)
    assert "worth geometry" in scored.values
    again = evaluate_run(out, run)
    assert again["metrics"] == pytest.approx(metrics)


def test_questions_are_drawn_for_training_and_all_asked_when_scored(
    planted: tuple[Stores, Path],
) -> None:
    stores, questions = planted
    pairing = pair_stores(stores.prior, stores.semantic, questions=[str(questions)])
    plan = plan_run(pairing, CONFIG)
    table = pairing.question_table(CONFIG)
    assert table is not None
    asked = table.asked(plan.order.samples(0, 2), seed=0)
    assert asked["qa"].index.shape == (2, CONFIG.questions_per_sample)
    again = table.asked(plan.order.samples(0, 2), seed=0)
    assert torch.equal(asked["qa"].index, again["qa"].index)
    rows = [table.asked([sample], seed=0)["qa"].index for sample in plan.scoring]
    scored = sorted(row for each in rows for row in each.flatten().tolist() if row >= 0)
    items = table.tasks["qa"].items
    assert scored == [row for row, item in enumerate(items) if item.split == "val"]
    train = {answer for item in items if item.split == "train" for answer in item.answers}
    assert set(table.tasks["qa"].bank) == train
    right = asked["grounding"].right
    assert (right.sum(dim=-1) >= 1).all()  # the candidates are the rooms' own boxes


def test_a_table_is_of_one_config(
    planted: tuple[Stores, Path],
) -> None:
    stores, questions = planted
    pairing = pair_stores(stores.prior, stores.semantic, questions=[str(questions)])
    table = pairing.question_table(CONFIG)
    assert pairing.question_table(replace(CONFIG)) is table
    more = pairing.question_table(replace(CONFIG, questions_per_sample=3))
    assert more is not None
    assert more.per_sample == 3
    assert not replace(pairing, notes=("a copy",))._question_tables


def test_what_a_question_speaks_of_stands_beside_it_in_its_order(
    planted: tuple[Stores, Path],
) -> None:
    stores, questions = planted
    pairing = pair_stores(stores.prior, stores.semantic, questions=[str(questions)])
    table = pairing.question_table(CONFIG)
    assert table is not None
    asked = table.asked(plan_run(pairing, CONFIG).scoring, seed=0)
    assert asked["grounding"].phrases is None
    found, items = asked["vsi"], table.tasks["vsi"].items
    assert found.phrases is not None
    b, q = next(
        (b, q)
        for b, q in (found.index >= 0).nonzero().tolist()
        if items[int(found.index[b, q])].kind == "object_rel_direction_easy"
    )
    spoken = phrases(items[int(found.index[b, q])].text)
    assert len(spoken) == 3
    torch.testing.assert_close(
        found.phrases[b, q, :3], torch.from_numpy(embed_texts("words", spoken))
    )
    assert not found.phrases[b, q, 3:].any()


def test_what_is_missing_is_said(planted: tuple[Stores, Path], tmp_path: Path) -> None:
    stores, questions = planted
    pairing = pair_stores(stores.prior, stores.semantic)
    with pytest.raises(UsageError, match="ask what annotation files ask: pass --questions FILE"):
        pairing.question_table(CONFIG)
    file = questions / "vsi_val.jsonl"
    pairing = pair_stores(stores.prior, stores.semantic, questions=[str(file)])
    with pytest.raises(UsageError, match="of which --questions has none"):
        pairing.question_table(CONFIG)
    narrow = TrainConfig(tasks=("vsi",), text_dim=128)
    pairing = pair_stores(stores.prior, stores.semantic, questions=[str(file)])
    with pytest.raises(UsageError, match="pass --text-dim 512"):
        pairing.question_table(narrow)


def test_a_box_is_the_mean_of_the_tokens_inside() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [100.0], [7.0]]])
    xyz = torch.tensor([[[0.0, 0, 0], [0.2, 0, 0], [5, 0, 0], [0, 0, 0]]])
    has_depth = torch.tensor([[True, True, True, False]])
    boxes = torch.tensor([[[0.0, 0, 0, 0.5, 0.5, 0.5], [9, 9, 9, 1, 1, 1], [torch.nan] * 6]])
    pooled, seen = pool_boxes(tokens, xyz, has_depth, boxes)
    assert pooled[0, 0, 0] == 2  # (1 + 3) / 2; the fourth has no depth
    assert seen.tolist() == [[True, False, False]]


def test_info_nce_of_two_right_choices() -> None:
    scores = torch.tensor([[[0.07, 0.0, 0.0, 0.5]]])
    targets = {
        "learnable": torch.tensor([[True]]),
        "right": torch.tensor([[[True, True, False, False]]]),
        "open": torch.tensor([[[True, True, True, False]]]),
    }
    e = np.e
    expected = np.log((e + 1 + 1) / (e + 1))  # cosines over 0.07; the fourth is not open
    assert float(info_nce(scores, targets)) == pytest.approx(expected, rel=1e-5)
