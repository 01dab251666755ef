"""Demonstrations through table, training and record: which chunk belongs to which frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from demos import INSTRUCTION, write_demos
from numbered import numbered

from vega3d.pipeline.backbones.text import embed_texts
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.imports import import_arrays
from vega3d.train.acting import find_frames
from vega3d.train.config import RunConfig, TrainConfig
from vega3d.train.demonstrations.reading import read_demonstrations
from vega3d.train.evaluation import evaluate_run
from vega3d.train.fitting import fit
from vega3d.train.order import Sample
from vega3d.train.pairing import pair_stores
from vega3d.train.rundir import plan_run, read_record

LENGTHS = [12, 10, 11, 9]
CONFIG = TrainConfig(
    tasks=("action",),
    hidden_dim=32,
    heads=2,
    reader_layers=0,
    views_per_sample=2,
    batch_size=16,
    steps=120,
    lr=4e-3,
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    return plant(tmp_path_factory.mktemp("acting"), "red", LENGTHS, scale=1.0)


def plant(
    folder: Path, colour: str, lengths: list[int], scale: float | list[float]
) -> tuple[str, str, str]:
    """Stores of demonstrations' frames whose features hold the action of the frame."""
    axes = np.random.default_rng(3).normal(size=(3, 12))
    rng = np.random.default_rng(4)
    actions = []
    for number, length in enumerate(lengths):
        made = np.zeros((length, 7))
        angle = 2 * number + 0.5 * np.arange(length)  # what comes follows from what is
        made[:, :2] = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        made[:, :2] *= np.broadcast_to(scale, len(lengths))[number]
        made[:, 6] = np.where(np.arange(length) < length // 2, -1, 1)
        actions.append(made)
    demos = write_demos(folder / f"demos/{colour}_demo.hdf5", lengths, actions=actions)
    arrays: dict[str, list] = {"prior": [], "semantic": []}
    for number, length in enumerate(lengths):
        known = np.tile(actions[number][:, :3] @ axes, (2, 1))[:, None, None]
        for name, share in (("prior", 1.0), ("semantic", 0.0)):
            features = np.broadcast_to(known * share, (2 * length, 2, 2, 12))
            noise = 0.05 * rng.normal(size=features.shape)
            arrays[name].append(
                numbered(
                    scene_id=f"{colour}_demo/demo_{number}",
                    features={"b0": (features + noise).astype(np.float32)},
                    view_ids=tuple(
                        f"{camera}/{frame:06d}"
                        for camera in ("agentview", "eye_in_hand")
                        for frame in range(length)
                    ),
                )
            )
    urls = {name: str(folder / name) for name in arrays}
    for name, found in arrays.items():
        import_arrays(urls[name], found, model=name, scenes_per_shard=2, store_dtype="float32")
    return urls["prior"], urls["semantic"], str(demos)


def test_a_frame_is_a_sample_and_its_chunk_begins_there(planted: tuple[str, str, str]) -> None:
    prior, semantic, demos = planted
    pairing = pair_stores(prior, semantic, actions=[demos])
    table = pairing.action_table(CONFIG)
    assert table is not None
    assert table.cameras == ("agentview", "eye_in_hand")
    plan = plan_run(pairing, CONFIG)
    assert plan.order.samples_per_epoch == sum(
        length for scene in plan.split.train for length in [len(scene.views) // 2]
    )
    sample = Sample("red_demo/demo_0", (9, 21))  # frame 9 of 12, in both cameras
    assert sample in [Sample(s.scene_id, s.views) for s in plan.order.samples(0, 100)] + [
        Sample(s.scene_id, s.views) for s in plan.scoring
    ]
    found = table.asked([sample], seed=0)["action"]
    episode = table.episodes["red_demo/demo_0"]
    assert found.there[0].tolist() == [True] * 3 + [False] * 5  # 3 actions are left
    expected = table.actions.normalised(episode.actions[9:])
    np.testing.assert_array_equal(found.chunk[0, :3], expected)
    np.testing.assert_array_equal(found.chunk[0, 3:], 0)
    np.testing.assert_array_equal(found.text[0], embed_texts("words", [INSTRUCTION])[0])
    np.testing.assert_array_equal(found.proprio[0], table.states.normalised(episode.proprio[9]))


def test_rows_that_hold_what_was_seen_after_their_action(planted: tuple[str, str, str]) -> None:
    prior, semantic, demos = planted
    pairing = pair_stores(prior, semantic, actions=[demos])
    later = TrainConfig(
        tasks=("action",), views_per_sample=1, action_offset=1, action_chunk=4, proprio_dim=0
    )
    table = pairing.action_table(later)
    assert table is not None
    found = table.asked([Sample("red_demo/demo_3", (6,))], seed=0)["action"]
    assert found.there[0].tolist() == [True, True, False, False]  # actions 7 and 8 of 9
    assert found.proprio.shape == (1, 0)


def test_bounds_are_of_the_demonstrations_that_are_trained_on(tmp_path: Path) -> None:
    """Else what is scored would have told how far its own actions reach."""
    prior, semantic, demos = plant(tmp_path, "red", [8, 8, 8], scale=[1, 1, 1])
    (scored,) = plan_run(pair_stores(prior, semantic, actions=[demos]), CONFIG).split.val
    scales = [4.0 if scored.scene_id.endswith(f"demo_{number}") else 1.0 for number in range(3)]
    prior, semantic, demos = plant(tmp_path / "wide", "red", [8, 8, 8], scales)
    pairing = pair_stores(prior, semantic, actions=[demos])
    table = pairing.action_table(CONFIG)
    assert table is not None
    assert np.abs(table.episodes[scored.scene_id].actions[:, :2]).max() > 3.5
    assert 0.9 < max(table.actions.largest[:2]) <= 1
    policy = table.to_json()
    again = replace(pairing, policy=policy).action_table(CONFIG)
    assert again is not None
    assert again.actions == table.actions


def test_frames_that_not_all_cameras_have_are_left_out(tmp_path: Path) -> None:
    demos = write_demos(tmp_path / "a.hdf5", [4])
    episodes = read_demonstrations([str(demos)], "words", ["a/demo_0"]).by_scene
    names = ["top/000000", "top/000002", "wrist/000002", "wrist/000003", "top/000009"]
    cameras, frames = find_frames({"a/demo_0": names}, episodes, 2)
    assert cameras == ("top", "wrist")
    assert frames == {"a/demo_0": {2: (1, 2)}}
    with pytest.raises(UsageError, match="--views-per-sample says of how many cameras"):
        find_frames({"a/demo_0": names}, episodes, 3)
    with pytest.raises(UsageError, match="extract with --views 0"):
        find_frames({"a/demo_0": ["top/000000", "wrist/000002"]}, episodes, 2)


def test_other_demonstrations_are_asked_in_the_policys_own_numbers(
    planted: tuple[str, str, str], tmp_path: Path
) -> None:
    prior, semantic, demos = planted
    one = replace(CONFIG, views_per_sample=1)
    trained = pair_stores(prior, semantic, actions=[demos]).action_table(one)
    assert trained is not None
    known = {**trained.to_json(), "cameras": ["eye_in_hand"]}
    prior, semantic, demos = plant(tmp_path, "blue", [8], scale=0.25)
    pairing = replace(pair_stores(prior, semantic, actions=[demos]), policy=known)
    table = pairing.action_table(one)
    assert table is not None
    assert table.cameras == ("eye_in_hand",)
    assert table.frames["blue_demo/demo_0"][3] == (8 + 3,)
    assert (table.actions, table.states) == (trained.actions, trained.states)
    with pytest.raises(UsageError, match="a sample takes \\['left'\\]"):
        replace(pairing, policy={**known, "cameras": ["left"]}).action_table(one)


@pytest.mark.slow
def test_behaviour_cloning_learns_what_the_prior_holds(
    planted: tuple[str, str, str], tmp_path: Path
) -> None:
    prior, semantic, demos = planted
    run = RunConfig(workers=0, eval_every=120)
    config = replace(CONFIG, proprio_dim=0)  # which here is noise
    summary = fit(prior, semantic, tmp_path / "run", config, run, actions=[demos])
    metrics = summary["metrics"]
    assert metrics["action/l1_3"] < 0.1  # a number that never changes
    assert metrics["action/l1_0"] < 0.5
    blind = evaluate_run(tmp_path / "run", run, force_gate=1)["metrics"]  # the other stream alone
    assert blind["action/l1_0"] > 1.3 * metrics["action/l1_0"]
    assert metrics["action/l1"] == pytest.approx(
        np.mean([metrics[f"action/l1_{number}"] for number in range(7)]), abs=1e-6
    )
    record = read_record(tmp_path / "run")
    policy = record["policy"]
    assert policy["cameras"] == ["agentview", "eye_in_hand"]
    assert policy["actions"]["command"] == [False] * 6 + [True]
    assert policy["texts"] == [INSTRUCTION]
    assert evaluate_run(tmp_path / "run", run)["metrics"] == pytest.approx(metrics)
    other = plant(tmp_path, "blue", [8], scale=0.25)
    found = evaluate_run(
        tmp_path / "run", run, prior=other[0], semantic=other[1], actions=[other[2]]
    )
    # Between bounds of its own, a quarter of the range, every number would be four times as far.
    assert found["metrics"]["action/l1_0"] < 2 * metrics["action/l1_0"]
    again = fit(prior, semantic, tmp_path / "run", config, run, actions=[demos])
    assert again["metrics"] == pytest.approx(metrics)
    lost = replace(CONFIG, action_dim=6)
    with pytest.raises(UsageError, match="actions of the demonstrations have 7 numbers, not 6"):
        fit(prior, semantic, tmp_path / "other", lost, run, actions=[demos])
    with pytest.raises(UsageError, match="pass --actions LOCATION"):
        fit(prior, semantic, tmp_path / "other", CONFIG, run)
