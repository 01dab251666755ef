import json
import math
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fits import STOPPED, fit_in_a_process
from numbered import numbered
from processes import places, start

from vega3d.pipeline import open_store
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import whole_file
from vega3d.pipeline.imports import import_arrays
from vega3d.train import RunConfig, TrainConfig, fit
from vega3d.train.checkpoint import load_state, load_weights
from vega3d.train.journal import read_metrics
from vega3d.train.loader import Loader
from vega3d.train.optimizer import NonFiniteLossError, lr_at, make_optimizer
from vega3d.train.pairing import pair_stores
from vega3d.train.rundir import plan_run, read_record, recorded_model
from vega3d.train.trainer import Trainer

CONFIG = TrainConfig(
    tasks=("depth", "displacement"), hidden_dim=16, heads=2, steps=12, batch_size=4, warmup=0.1
)
QUICK = RunConfig(log_every=1, eval_every=6, checkpoint_every=4, workers=1)


def losses(run_dir: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_metrics(run_dir) if line["kind"] == "train"}


def start_fit(stores: object, *args: object, place: dict[str, str] | None = None) -> BaseProcess:
    return start(fit_in_a_process, stores.prior, stores.semantic, *args, place=place)


def run_fit(stores: object, *args: object) -> None:
    ended(start_fit(stores, *args))


def ended(process: BaseProcess, code: int = 0) -> None:
    process.join(120)
    assert process.exitcode == code


def wait_for_steps(run_dir: Path, steps: int, process: BaseProcess) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if len(losses(run_dir)) >= steps:
            return
        assert process.is_alive(), "the run ended too early"
        time.sleep(0.02)
    raise AssertionError("the run does not move")


@pytest.mark.slow
def test_a_run_learns_and_leaves_all_its_files(stores: object, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, tasks=("depth",))
    summary = fit(stores.prior, stores.semantic, tmp_path / "run", config, QUICK)
    found = losses(tmp_path / "run")
    assert len(found) == 40
    assert sum(found[s] for s in range(36, 41)) < 0.6 * sum(found[s] for s in range(1, 6))
    assert summary["finished"]
    assert summary["metrics"]["depth/delta125"] == summary["score"]
    assert 0 < summary["gate_mean"] < 1
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "run.json", "config.toml", "metrics.jsonl", "tensorboard", "last.safetensors",
        "best.safetensors", "checkpoint-00000036.safetensors", "checkpoint-00000040.safetensors",
        "summary.json", "report.html",
    }  # fmt: skip
    page = (tmp_path / "run" / "report.html").read_text()
    assert "prefers-color-scheme: dark" in page
    assert page.count("data:image/png") == 8  # one gate map a scored view
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_the_same_run_twice_is_the_same_bit_for_bit(stores: object, tmp_path: Path) -> None:
    runs = [
        replace(QUICK, workers=0),
        replace(QUICK, workers=3, prefetch=2, cache_bytes=1 << 20),
        replace(QUICK, workers=2, keep_features="always"),
    ]
    for index, run in enumerate(runs):
        fit(stores.prior, stores.semantic, tmp_path / str(index), CONFIG, run)
    assert losses(tmp_path / "0") == losses(tmp_path / "1") == losses(tmp_path / "2")
    weights = [(tmp_path / str(i) / "last.safetensors").read_bytes() for i in range(3)]
    assert weights[0] == weights[1] == weights[2]


@pytest.mark.slow
def test_kill_9_at_a_random_step_then_resume_repeats_the_losses_bit_for_bit(
    stores: object, tmp_path: Path
) -> None:
    # Dropout, an average of the weights and accumulated parts: all that could go astray.
    config = replace(CONFIG, steps=30, variant="cross_attention_1", ema=0.9, accumulate=2)
    run = replace(QUICK, checkpoint_every=3, eval_every=10)
    run_fit(stores, tmp_path / "whole", config, run)
    killed = tmp_path / "killed"
    process = start_fit(stores, killed, config, run, 0.05)
    # The seed makes the place of the kill different from run to run; the rule must not care.
    wait_for_steps(killed, random.randrange(4, 25), process)
    process.kill()
    ended(process, -signal.SIGKILL)
    run_fit(stores, killed, config, run)
    want = losses(tmp_path / "whole")
    assert losses(killed) == want
    assert len(want) == 30
    for name in ("last.safetensors", "best.safetensors"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # The scores and every line's order are those of the undisturbed run as well.
    lines = [
        [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in read_metrics(run_dir)]
        for run_dir in (killed, tmp_path / "whole")
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_sigterm_saves_and_exits_and_the_same_call_goes_on(stores: object, tmp_path: Path) -> None:
    config, run = replace(CONFIG, steps=30), replace(QUICK, checkpoint_every=1000)
    out = tmp_path / "run"
    process = start_fit(stores, out, config, run, 0.1)
    wait_for_steps(out, 3, process)
    process.terminate()
    ended(process, STOPPED)
    stopped = len(losses(out))
    assert 3 <= stopped < 30
    assert (out / f"checkpoint-{stopped:08d}.safetensors").exists()
    assert fit(stores.prior, stores.semantic, out, config, run)["finished"]
    assert sorted(losses(out)) == list(range(1, 31))


@pytest.mark.slow
def test_two_processes_are_one_with_the_same_global_batch(stores: object, tmp_path: Path) -> None:
    config = replace(
        CONFIG,
        tasks=("depth", "displacement", "matching"),
        variant="cross_attention_1",
        accumulate=2,
        batch_size=4,
        steps=10,
    )
    run_fit(stores, tmp_path / "one", replace(config, accumulate=1), QUICK)
    both = [start_fit(stores, tmp_path / "two", config, QUICK, place=p) for p in places(2)]
    for process in both:
        ended(process)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert sorted(one) == sorted(two) == list(range(1, 11))
    for step, value in one.items():
        assert two[step] == pytest.approx(value, rel=1e-4)
    scores = [
        json.loads((tmp_path / n / "summary.json").read_text())["metrics"] for n in ("one", "two")
    ]
    assert scores[1] == pytest.approx(scores[0], rel=1e-2)
    assert scores[0].keys() == scores[1].keys()


@pytest.mark.slow
def test_accumulated_parts_are_one_batch(stores: object, tmp_path: Path) -> None:
    for parts in (1, 4):
        config = replace(CONFIG, accumulate=parts)
        fit(stores.prior, stores.semantic, tmp_path / str(parts), config, QUICK)
    whole, cut = losses(tmp_path / "1"), losses(tmp_path / "4")
    for step, value in whole.items():
        assert cut[step] == pytest.approx(value, rel=1e-4)


@pytest.mark.slow
def test_bfloat16_training_stays_near_float32(stores: object, tmp_path: Path) -> None:
    for amp in (False, True):
        config = replace(CONFIG, amp=amp, tasks=("depth",), steps=20)
        fit(stores.prior, stores.semantic, tmp_path / str(amp), config, QUICK)
    full, half = losses(tmp_path / "False"), losses(tmp_path / "True")
    for step, value in full.items():  # 2 ** -8 a product, over 20 updates: 5 % of the loss
        assert half[step] == pytest.approx(value, rel=0.05, abs=0.01)


def test_averaged_weights_are_the_ones_scored_and_saved(stores: object, tmp_path: Path) -> None:
    config = replace(CONFIG, ema=0.5, steps=3)
    fit(stores.prior, stores.semantic, tmp_path, config, QUICK)
    record = read_record(tmp_path)
    state = load_state(tmp_path, record["identity"])
    model = recorded_model(record)
    load_weights(tmp_path / "last.safetensors", model, record["identity"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, state.average[f"module.{name}"])
    name = "fusion.project_gen.0.weight"
    assert not torch.equal(model.state_dict()[name], state.model[name])


def test_learning_rate_rises_then_falls_as_a_cosine() -> None:
    config = replace(CONFIG, steps=104, warmup=0.0384, lr=2.0)  # four steps of warm-up
    rates = [lr_at(step, config) for step in range(104)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[54] == pytest.approx(1.0)  # half of the hundred that follow
    assert rates[-1] == pytest.approx(1 - math.cos(math.pi / 100))


def test_only_matrices_decay(stores: object) -> None:
    plan = plan_run(pair_stores(stores.prior, stores.semantic), CONFIG)
    model = plan.build_model()
    decayed, free = make_optimizer(model, CONFIG).param_groups
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim < 2 for p in free["params"])
    assert free["weight_decay"] == 0
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_inputs_are_standardised_with_the_stores_statistics(stores: object) -> None:
    plan = plan_run(pair_stores(stores.prior, stores.semantic), CONFIG)
    model = plan.build_model()
    loader = Loader(plan.pairing, min_depth_share=0.5, workers=0)
    everything = list(plan.scoring) + plan.order.samples(0, plan.order.samples_per_epoch)
    values = torch.cat(
        [
            model.standardize_gen(b.gen, b.valid).flatten(0, 2)
            for b in loader.batches([[s] for s in everything])
        ]
    )
    torch.testing.assert_close(values.mean(0), torch.zeros(12), rtol=0, atol=1e-4)
    torch.testing.assert_close(values.std(0), torch.ones(12), rtol=1e-3, atol=1e-3)


# The planted problem


def planted(stores: object, out: Path, variant: str, batch_size: int = 8) -> dict[str, Any]:
    config = TrainConfig(
        tasks=("depth", "classes"),
        num_classes=4,
        variant=variant,
        hidden_dim=32,
        heads=4,
        steps=60,
        batch_size=batch_size,
        lr=6e-3,
    )
    run = RunConfig(log_every=30, eval_every=60, checkpoint_every=60, workers=1, report_scenes=0)
    return fit(stores.prior, stores.semantic, out, config, run, labels=stores.labels)


@pytest.mark.slow
def test_fused_beats_both_streams_where_each_knows_one_half(stores: object, tmp_path: Path) -> None:
    names = ("adaptive", "semantic", "generative", "blind")
    found = {name: planted(stores, tmp_path / name, name) for name in names}
    scores = {name: summary["score"] for name, summary in found.items()}
    assert scores["adaptive"] > 0.9
    for single in ("semantic", "generative"):
        assert scores["adaptive"] > scores[single] + 0.25
    assert scores["blind"] < min(scores["semantic"], scores["generative"])
    metrics = {name: summary["metrics"] for name, summary in found.items()}
    assert metrics["generative"]["classes/accuracy"] < 0.4  # a guess is right in one of four
    assert metrics["semantic"]["classes/accuracy"] > 0.95
    assert metrics["semantic"]["depth/delta125"] < 0.35
    assert metrics["generative"]["depth/delta125"] > 0.9


@pytest.mark.slow
def test_the_gate_moves_away_from_a_stream_of_noise(
    make_stores: Callable[..., object], tmp_path: Path
) -> None:
    # Enough tokens that noise cannot be learned by heart; seen: 0.40, 0.64, 0.89.
    gates = {}
    for broken in ((), ("prior",), ("semantic",)):
        stores = make_stores(noise=broken, num_scenes=6, grid=(8, 8))
        name = "_".join(broken) or "none"
        gates[name] = planted(stores, tmp_path / name, "adaptive", batch_size=4)["gate_mean"]
    assert gates["semantic"] < gates["none"] - 0.05  # towards the generative stream
    assert gates["prior"] > gates["none"] + 0.05


# Misuse


@pytest.mark.slow
def test_another_config_in_the_same_folder_is_refused_with_the_fields(
    stores: object, tmp_path: Path
) -> None:
    short = replace(CONFIG, steps=2)
    fit(stores.prior, stores.semantic, tmp_path, short, QUICK)
    with pytest.raises(
        UsageError, match=r"holds another run: train\.lr was 0\.001, now 0\.1.*--out"
    ):
        fit(stores.prior, stores.semantic, tmp_path, replace(short, lr=0.1), QUICK)


def test_nan_loss_stops_with_the_scenes_saved(
    make_stores: Callable[..., object], tmp_path: Path
) -> None:
    # A non-finite feature cannot be stored, so the break is in the weights: a rate beyond reason.
    stores = make_stores()
    config = replace(CONFIG, lr=1e30, warmup=0.0, clip_norm=0.0, steps=6)
    with pytest.raises(NonFiniteLossError, match=r"loss of step \d is not finite.*lower --lr"):
        fit(stores.prior, stores.semantic, tmp_path, config, QUICK)
    (path,) = tmp_path.glob("nonfinite_step_*.json")
    saved = json.loads(path.read_text())
    assert len(saved["samples"]) == 4
    assert {s["scene_id"] for s in saved["samples"]} <= set(open_store(stores.prior).scene_ids)
    assert saved["scenes_with_nonfinite_features"] == []


def test_weights_that_blow_up_in_the_last_step_stop_before_they_are_saved(
    stores: object, tmp_path: Path
) -> None:
    config = replace(CONFIG, lr=1e18, warmup=0.0, steps=1)
    with pytest.raises(NonFiniteLossError, match=r"loss on the scored views.* of step 1 is not"):
        fit(stores.prior, stores.semantic, tmp_path, config, QUICK)
    assert len(json.loads((tmp_path / "nonfinite_step_1.json").read_text())["samples"]) == 4
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_gradient_that_is_not_finite_stops_before_the_update(
    stores: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_clip", lambda self: math.inf)
    with pytest.raises(NonFiniteLossError, match="gradient of step 1 is not finite"):
        fit(stores.prior, stores.semantic, tmp_path, CONFIG, QUICK)
    assert (tmp_path / "nonfinite_step_1.json").exists()
    assert not list(tmp_path.glob("*.safetensors"))


def test_nan_features_name_their_scene(
    stores: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = Loader._fill

    def broken(self: Loader, slot: object, request: object) -> object:
        batch = fill(self, slot, request)
        for b, sample in enumerate(request):
            if sample.scene_id == "scene1":
                batch.gen[b, 0, 3] = math.nan
        return batch

    monkeypatch.setattr(Loader, "_fill", broken)
    config = replace(CONFIG, split_seed=1)
    plan = plan_run(pair_stores(stores.prior, stores.semantic), config)
    assert "scene1" in {s.scene_id for s in plan.split.train}
    with pytest.raises(NonFiniteLossError, match="1 scenes among them have features"):
        fit(stores.prior, stores.semantic, tmp_path, config, QUICK)
    (path,) = tmp_path.glob("nonfinite_step_*.json")
    assert json.loads(path.read_text())["scenes_with_nonfinite_features"] == ["scene1"]


def test_classes_without_labels_and_a_batch_that_cannot_be_shared(
    stores: object, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="needs a label store: pass --labels"):
        fit(
            stores.prior,
            stores.semantic,
            tmp_path,
            TrainConfig(tasks=("classes",), num_classes=4),
        )
    with pytest.raises(ValueError, match="accumulate must divide batch_size, got 3 and 4"):
        replace(CONFIG, accumulate=3)


def test_scenes_without_depth_are_refused_for_spatial_tasks(tmp_path: Path) -> None:
    for name in ("p", "s"):
        values = np.ones((8, 2, 2, 3), np.float32)
        scenes = [numbered(scene_id=i, features={"b": values}) for i in ("a", "b")]
        import_arrays(str(tmp_path / name), scenes, model=name)
    with pytest.raises(UsageError, match="none of the 2 scenes has depth with poses"):
        fit(str(tmp_path / "p"), str(tmp_path / "s"), tmp_path / "run", CONFIG, QUICK)


def test_scenes_without_depth_are_left_out_of_both_sides_and_counted(tmp_path: Path) -> None:
    values = np.ones((8, 2, 2, 3), np.float32)
    xyz = np.ones((8, 2, 2, 3), np.float32)
    poses = np.tile(np.eye(4), (8, 1, 1))
    for name in ("p", "s"):
        scenes = [
            numbered(
                scene_id=f"s{i}",
                features={"b": values},
                world_xyz=xyz if i < 2 else None,
                world_from_camera=poses,
            )
            for i in range(10)
        ]
        import_arrays(str(tmp_path / name), scenes, model=name)
    plan = plan_run(pair_stores(str(tmp_path / "p"), str(tmp_path / "s")), CONFIG)
    assert {s.scene_id for s in (*plan.split.train, *plan.split.val)} == {"s0", "s1"}
    assert plan.split.note.startswith("8 scenes without depth are left out. Split by scene: 1 to")


def test_a_label_that_is_no_class_names_its_scene(stores: object) -> None:
    config = TrainConfig(tasks=("classes",), num_classes=3)
    pairing = pair_stores(stores.prior, stores.semantic, labels=stores.labels)
    with pytest.raises(UsageError, match=r"scene0 has a token of class 3 .*classes are 0 to 2"):
        plan_run(pairing, config)


def test_a_finished_run_is_returned_as_it_was_saved(
    stores: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".last.safetensors.123.partial").write_bytes(b"left by a kill")
    first = fit(stores.prior, stores.semantic, tmp_path, CONFIG, QUICK)
    assert not list(tmp_path.glob(".*.partial"))
    rates = [n["tokens_per_s"] for n in read_metrics(tmp_path) if n["kind"] == "train"]
    assert first["tokens_per_s"] == pytest.approx(np.median(rates), abs=0.06)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    monkeypatch.setattr(Trainer, "score", lambda self: pytest.fail("it scored again"))
    assert fit(stores.prior, stores.semantic, tmp_path, CONFIG, QUICK) == first
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == files


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(stores: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="torch sees no GPU here; pass --device cpu"):
        fit(stores.prior, stores.semantic, tmp_path, CONFIG, replace(QUICK, device="cuda"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("depth", "colour")}, r"tasks must be different names of .*colour"),
        ({"variant": "gate"}, r"variant must be one of .* got 'gate'"),
        ({"hidden_dim": 18}, r"multiple of 4 \(2-D positions\) and of `heads` \(2\), got 18"),
        ({"variant": "sequence", "reader_layers": 0}, "needs reader_layers >= 1"),
        ({"tasks": ("matching",), "views_per_sample": 1}, "views_per_sample must be >= 2"),
        ({"num_classes": 3}, r"num_classes \(2 or more\) goes with the task classes"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"val_share": 1.0}, r"val_share must lie in \(0, 1\), got 1"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\), got 1"),
        ({"lr": 0.0}, r"lr and match_radius_m must be positive"),
        ({"gap_views": -1}, "gap_views must be >= 0, got -1"),
    ],
)
def test_configs_refuse_what_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **options)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    with pytest.raises(OSError, match="disk full"), whole_file(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
