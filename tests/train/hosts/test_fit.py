"""`vega3d-train host fit`: small random hosts of the real classes, rooms, and their questions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered import numbered
from processes import run_together
from safetensors.torch import load_file

from vega3d.evaluate.benchmarks.config import MakingConfig
from vega3d.evaluate.benchmarks.made.making import make
from vega3d.pipeline import open_store
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.imports import import_arrays
from vega3d.train.annotations.item import Item
from vega3d.train.hosts import attach_prior
from vega3d.train.hosts.config import HostConfig, HostRun, HostSources
from vega3d.train.hosts.fitting import fit_host, open_plan
from vega3d.train.hosts.inputs import IGNORED, Writer
from vega3d.train.hosts.loading import Host, load_host
from vega3d.train.hosts.prompts import answer_of, can_ask, question_of, read_answer
from vega3d.train.journal import read_metrics

SCENES = "rooms:3?views=3&height=64&width=80"
RUN = HostRun(device="cpu", log_every=1)
CONFIG = HostConfig(
    host="tiny", precision="float32", benchmarks=("vsi", "multi3drefer"), views=2,
    steps=6, batch_size=2, lr=1e-2, scored_questions=2, answer_tokens=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> HostSources:
    folder = tmp_path_factory.mktemp("hosts")
    make(SCENES, folder / "questions", MakingConfig(val_share=0.4, per_room=6))
    rng = np.random.default_rng(0)
    rooms = [
        numbered(
            scene_id=f"room{index:04d}",
            view_ids=tuple(f"{view:04d}" for view in range(3)),
            features={"b0": rng.normal(size=(3, 4, 5, 6)).astype(np.float32)},
        )
        for index in range(3)
    ]
    import_arrays(str(folder / "prior"), rooms, model="noise", store_dtype="float32")
    return HostSources(
        scenes=SCENES, prior=(str(folder / "prior"),), questions=(str(folder / "questions"),)
    )


@pytest.fixture(scope="module")
def whole(sources: HostSources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fit_host(sources, out, CONFIG, RUN)
    return out


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run)]


@pytest.mark.slow
def test_a_run_learns_answers_and_is_scored(whole: Path, sources: HostSources) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["finished"]
    assert min(losses(whole)[-2:]) < losses(whole)[0]
    assert set(summary["benchmarks"]) == set(CONFIG.benchmarks)
    answers = (whole / "predictions/vsi.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in answers] == [{"id", "prediction"}] * 2
    # What was added fits the host again, and nothing of the host is in it.
    host = load_host("tiny", "float32", whole / "host")
    prior = attach_prior(host.model, open_store(sources.prior[0]))
    prior.load(whole / "added")
    assert not set(load_file(whole / "added/prior.safetensors")) & set(host.model.state_dict())
    assert json.loads((whole / "added/host.json").read_text())["host"] == "tiny"


@pytest.mark.slow
def test_a_run_cut_short_goes_on_as_if_it_had_not_been(
    whole: Path, sources: HostSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vega3d.train.hosts import training

    step, done = training._step, []

    def dies(*given: object) -> object:
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(training, "_step", dies)
    every = HostRun(device="cpu", log_every=1, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        fit_host(sources, tmp_path, CONFIG, every)
    monkeypatch.setattr(training, "_step", step)
    fit_host(sources, tmp_path, CONFIG, every)
    assert losses(tmp_path) == losses(whole)
    ours, theirs = (load_file(run / "added/prior.safetensors") for run in (tmp_path, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(UsageError, match="holds another run: train.lr was 0.01, now 0.1"):
        fit_host(sources, _unfinished(tmp_path), HostConfig(**{**_plain(), "lr": 0.1}), RUN)


def _plain() -> dict[str, object]:
    return {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}


def _unfinished(run: Path) -> Path:
    (run / "summary.json").unlink()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["", "--shard"])
def test_two_processes_make_the_steps_of_one(
    whole: Path, sources: HostSources, tmp_path: Path, shard: str
) -> None:
    options = [
        f"--{name.replace('_', '-')}={','.join(v) if isinstance(v, tuple) else v}"
        for name, v in _plain().items()
        if name != "without_prior"
    ]
    done = run_together(
        "vega3d-train", "host", "fit", "--scenes", sources.scenes, "--prior", sources.prior[0],
        "--questions", sources.questions[0], "--out", tmp_path, "--device=cpu", "--log-every=1",
        *options, *([shard] if shard else []), count=2,
    )  # fmt: skip
    assert [one.returncode for one in done] == [0, 0], done[0].stderr[-3000:]
    np.testing.assert_allclose(losses(tmp_path), losses(whole), rtol=1e-4)
    ours, theirs = ((run / "predictions/vsi.jsonl").read_text() for run in (tmp_path, whole))
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-qwen2.5-vl", "tiny-qwen3-vl"])
def test_adapters_train_beside_the_prior(sources: HostSources, tmp_path: Path, name: str) -> None:
    pytest.importorskip("peft")
    config = HostConfig(
        host=name, precision="float32", benchmarks=("vsi",), views=2, view_pixels=64 * 64,
        lora_rank=2, steps=3, batch_size=1, lr=1e-2, scored_questions=1, answer_tokens=2,
    )  # fmt: skip
    summary = fit_host(sources, tmp_path, config, RUN)
    assert len(losses(tmp_path)) == 3
    adapters = load_file(tmp_path / "added/adapter_model.safetensors")
    assert all("lora_" in key for key in adapters)
    assert all("language_model" in key for key in adapters)
    assert any(value.abs().max() > 0 for key, value in adapters.items() if "lora_B" in key)
    added = sum(value.numel() for value in adapters.values())
    added += sum(v.numel() for v in load_file(tmp_path / "added/prior.safetensors").values())
    assert summary["parameters"]["added"] == added - 2 * 6  # mean and deviation do not train


def test_a_plan_asks_every_question_once_a_turn(sources: HostSources) -> None:
    plan = open_plan(sources, CONFIG, RUN)
    count = len(plan.training)
    asked = [one for step in range(count) for one in plan.asked(step, 0, 1)]
    for turn in range(2):
        items = [item.item_id for _, item, at in asked if at == turn]
        assert sorted(items) == sorted(item.item_id for _, item in plan.training)
    parts = [item for rank in range(2) for _, item, _ in plan.asked(3, rank, 2)]
    assert parts == [item for _, item, _ in plan.asked(3, 0, 1)]
    assert {item.split for _, item in plan.scored} == {"val"}
    assert len(plan.scored) <= 2 * len(CONFIG.benchmarks)


def item(benchmark: str, **more: object) -> Item:
    return Item(benchmark=benchmark, item_id="1", scene_id="s", split="", text="a chair", **more)


BOX = (0.0, -1.25, 0.5, 1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("benchmark", "said", "read"),
    [
        ("scanrefer", "[0.00, -1.25, 0.50, 1.00, 2.00, 3.00]", {"box": list(BOX)}),
        ("scanrefer", "It is 0, -1.25, 0.5, 1, 2, 3.", {"box": list(BOX)}),
        ("scanrefer", "[0, 0, 0, -1, 2, 3]", None),  # a negative size
        ("scanrefer", "over there", None),
        ("scanrefer", "", None),
        ("multi3drefer", "none", {"boxes": []}),
        ("multi3drefer", "", None),
        ("scanqa", " two \n", {"answer": "two"}),
        ("scan2cap", "a chair.", {"caption": "a chair."}),
        ("vsi", "B", {"prediction": "B"}),
    ],
)
def test_answers_are_read(benchmark: str, said: str, read: object) -> None:
    assert read_answer(item(benchmark), said) == read


def test_what_is_asked_reads_back_as_what_is_right() -> None:
    one = item("scanrefer", boxes=(BOX,))
    assert read_answer(one, answer_of(one, 0)) == {"box": list(BOX)}
    many = item("multi3drefer", boxes=(BOX, BOX))
    assert read_answer(many, answer_of(many, 0)) == {"boxes": [list(BOX)] * 2}
    none = item("multi3drefer", boxes=())
    assert read_answer(none, answer_of(none, 0)) == {"boxes": []}
    caption = item("scan2cap", boxes=(BOX,), answers=("one", "two"))
    assert [answer_of(caption, turn) for turn in range(3)] == ["one", "two", "one"]
    assert "[0.00, -1.25, 0.50, 1.00, 2.00, 3.00]" in question_of(caption)
    assert not can_ask(item("scan2cap", answers=("one",)))
    choice = item("vsi", options=("A. left", "B. right"), answers=("B",))
    assert "A. left\nB. right\n" in question_of(choice)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Host]:
    folder = tmp_path_factory.mktemp("tiny")
    return lambda name: load_host(name, "float32", folder / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny-qwen2.5-vl", "tiny-qwen3-vl"])
def test_only_the_answer_and_its_end_are_learned(tiny: Callable[[str], Host], name: str) -> None:
    """And the loss is the host's own of the same labels."""
    host = tiny(name)
    writer = Writer(host, 64 * 80)
    pixels = writer.pixels([np.full((64, 80, 3), value, np.uint8) for value in (0, 200)])
    inputs, labels = writer.example(pixels, "How many?", "two")
    learned = labels[labels != IGNORED].tolist()
    assert host.tokenizer.decode(learned) == "two<|im_end|>"
    visual = int((inputs["input_ids"] == writer.placeholder).sum())
    assert visual == {"tiny": 2 * 16 + 1}.get(name, 2 * 20)
    text = host.tokenizer.decode(inputs["input_ids"][0].tolist(), skip_special_tokens=True)
    assert text.strip().endswith("How many?\nassistant\ntwo")
    with torch.no_grad():
        told = host.model(**inputs, labels=labels)
        logits = told.logits[0, -len(learned) - 1 : -1]
        ours = torch.nn.functional.cross_entropy(logits, torch.tensor(learned))
    assert float(ours) == pytest.approx(float(told.loss), rel=1e-5)


@pytest.mark.slow
def test_frames_are_those_of_the_published_processor(tiny: Callable[[str], Host]) -> None:
    """LLaVA's own image processor makes the first of its patches of the whole image alike."""
    host = tiny("tiny")
    rgb = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    ours = Writer(host, 1).pixels([rgb])["pixel_values_videos"][0, 0]
    theirs = host.images(images=[rgb], return_tensors="pt")["pixel_values"][0, 0]
    torch.testing.assert_close(ours, theirs)


def test_what_does_not_fit_is_said(sources: HostSources, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a of|cannot be loaded"):
        load_host(str(tmp_path), "float32", tmp_path)
    with pytest.raises(ValueError, match="give lora_rank, such as 16"):
        HostConfig(without_prior=True)
    nothing = HostConfig(**{**_plain(), "benchmarks": ("scanqa",)})
    only = HostSources(
        scenes=SCENES, prior=sources.prior, questions=(f"{sources.questions[0]}/vsi_val.jsonl",)
    )
    with pytest.raises(UsageError, match="the files have no question of scanqa"):
        open_plan(only, nothing, RUN)
    lone = tmp_path / "vsi.jsonl"
    lone.write_text(Path(only.questions[0]).read_text().splitlines()[0])
    alone = HostSources(scenes=SCENES, prior=only.prior, questions=(str(lone),))
    with pytest.raises(UsageError, match="one to train and one to score"):
        open_plan(alone, HostConfig(**{**_plain(), "benchmarks": ("vsi",)}), RUN)


@pytest.fixture(autouse=True)
def _no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, *_: None)
