import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vega3d.pipeline.backbones.registry import preset
from vega3d.pipeline.backbones.settings import ModelFacts
from vega3d.pipeline.cli import app
from vega3d.pipeline.config import ExtractConfig, Rates
from vega3d.pipeline.errors import StoreError, UsageError
from vega3d.pipeline.estimate import estimate
from vega3d.pipeline.imports import SceneArrays, import_arrays
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.scenes.scene import SceneEntry
from vega3d.pipeline.store.root import new_root


def entry(scene_id: str, views: int = 4, group: str = "") -> SceneEntry:
    return SceneEntry(scene_id=scene_id, num_views=views, size_bytes=1, group=group)


def test_units_are_consecutive_rows_of_one_shard() -> None:
    plan = plan_units([entry(name) for name in "abcde"], num_views=0, scenes_per_shard=2)
    assert [(unit.first_row, unit.scene_ids) for unit in plan.units] == [
        (0, ("a", "b")), (2, ("c", "d")), (4, ("e",)),
    ]  # fmt: skip


def test_view_axis_is_the_longest_scene_up_to_the_limit() -> None:
    scenes = [entry("a", 3), entry("b", 90)]
    assert plan_units(scenes, num_views=32, scenes_per_shard=1).max_views == 32
    assert plan_units(scenes, num_views=0, scenes_per_shard=1).max_views == 90
    assert plan_units([entry("a", 0)], num_views=0, scenes_per_shard=1).max_views == 1


@pytest.mark.parametrize(
    ("counts", "wanted", "got"),
    [((8, 8, 3), 8, 8), ((6, 6), 4, 3), ((5, 7), 8, 5), ((5, 7, 1), 8, 1)],
)
def test_no_unit_spans_two_tars(counts: tuple[int, ...], wanted: int, got: int) -> None:
    scenes = [
        entry(f"{tar}-{i}", group=f"{tar}.tar") for tar, n in enumerate(counts) for i in range(n)
    ]
    plan = plan_units(scenes, num_views=0, scenes_per_shard=wanted)
    assert plan.scenes_per_shard == got
    groups = {scene.scene_id: scene.group for scene in scenes}
    assert all(len({groups[name] for name in unit.scene_ids}) == 1 for unit in plan.units)


def test_repeated_and_missing_scenes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"occur more than once: \['a'\].*rename"):
        plan_units([entry("a"), entry("b"), entry("a")], num_views=0, scenes_per_shard=1)
    with pytest.raises(UsageError, match="no scene to extract"):
        plan_units([], num_views=0, scenes_per_shard=1)


def test_a_shard_that_no_put_can_hold_is_refused() -> None:
    plan = plan_units([entry(str(i), 1000) for i in range(16)], num_views=0, scenes_per_shard=16)
    # 16 scenes x 1000 views x 196 tokens x 1536 channels x 2 bytes = 9.6e9
    identity = {"config": {"grid": [14, 14], "store_dtype": "float16"}, "taps": ["k300_b20"]}
    with pytest.raises(StoreError, match=r"9\.0 GiB.*one PUT takes 5.*--scenes-per-shard"):
        new_root(plan, {**identity, "channels": 1536}, {})
    few = plan_units([entry("long", 3000), *(entry(str(i), 30) for i in range(15))], num_views=0,
                     scenes_per_shard=16)  # fmt: skip
    new_root(few, {**identity, "channels": 1536}, {})  # missing views take no room


def test_an_index_that_no_put_can_hold_is_refused_before_anything_is_computed() -> None:
    plan = plan_units([entry(str(i), 4000) for i in range(5000)], num_views=0, scenes_per_shard=1)
    identity = {"config": {"grid": [2, 2], "store_dtype": "float16"}, "taps": ["b0"]}
    with pytest.raises(StoreError, match=r"index of 20000000 views would take about 5\.6 GiB"):
        new_root(plan, {**identity, "channels": 3}, {})


def ragged(url: Path, views: list[int]) -> int:
    """Import scenes of so many views; returns the bytes of all files."""
    rng = np.random.default_rng(0)
    scenes = [
        SceneArrays(
            scene_id=f"s{i:02d}",
            view_ids=[str(view) for view in range(count)],
            features={"b0": rng.normal(size=(count, 4, 4, 32)).astype(np.float32)},
        )
        for i, count in enumerate(views)
    ]
    import_arrays(str(url), scenes, model="x")
    return sum(path.stat().st_size for path in url.rglob("*") if path.is_file())


@pytest.mark.slow
def test_short_scenes_pay_nothing_for_a_long_one(tmp_path: Path) -> None:
    """20 scenes of 3 views, and one of 1,000 beside them: it was 0.3 MB and 67 MB."""
    short = ragged(tmp_path / "short", [3] * 20)
    both = ragged(tmp_path / "both", [3] * 20 + [1000])
    alone = ragged(tmp_path / "alone", [1000])
    assert short < 0.25e6
    assert both < 3e6
    assert both - short - alone < 20 * 16 * 1000 * 4  # a place in each index of each shard


def test_twenty_thousand_scenes_take_what_their_views_take() -> None:
    """One of them is of 2,500 views: 0.39 TB, where dense shards were 30."""
    entries = [*(entry(str(i), 30) for i in range(20_000)), entry("long", 2500)]
    facts = ModelFacts(
        channels=1536, num_blocks=30, blocks=(20,), taps=("k300_b20",), token_px=16,
        auto_tokens=1560, parameters=0,
        configs={"vae": {"base_dim": 96},
                 "transformer": {"num_attention_heads": 12, "ffn_dim": 8960}},
    )  # fmt: skip
    config = ExtractConfig(backbone=preset("wan2.1-t2v"), num_views=0)
    found = estimate(plan_units(entries, num_views=0, scenes_per_shard=8), config, facts, Rates())
    views = 20_000 * 30 + 2500
    assert found["stored_bytes"] == pytest.approx(views * 14 * 14 * 1536 * 2, rel=0.09)
    assert found["stored_bytes"] < 0.4e12
    assert found["files"] < 6.1 * 2501


@pytest.mark.slow
def test_a_plan_says_how_many_bytes_and_files_there_will_be(tmp_path: Path) -> None:
    options = ["--backbone", "rgb", "--device", "cpu", "--resolution", "64x48"]
    scenes = "rooms:5?views=3&height=48&width=64"
    planned = json.loads(CliRunner().invoke(app, ["plan", scenes, *options]).stdout)
    out = tmp_path / "s"
    done = CliRunner().invoke(app, ["run", scenes, "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout.splitlines()[-1])
    files = [path for path in out.rglob("*") if path.is_file()]
    folders = [path for path in out.rglob("*") if path.is_dir()]
    assert planned["stored_bytes"] == summary["stored_bytes"]
    assert planned["files"] == len(files)
    assert len(folders) == 22  # whatever the units: one an array, and those below `unit`
    assert len(files) == 5 * 6 + 41
