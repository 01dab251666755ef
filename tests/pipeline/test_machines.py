"""A plan's time: the slowest of stages that overlap, at the rate of the precision."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vega3d.pipeline.backbones.checkpoints import planned_facts
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig, Rates
from vega3d.pipeline.estimate import estimate
from vega3d.pipeline.machines import PUBLISHED_TFLOPS, gpu_memory_bytes, pace, stated_tflops
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.scenes.scene import SceneEntry
from vega3d.pipeline.units_of_measure import size_text, span_text

TFLOP = 0.91368456192 + 2.89296064512  # VAE and DiT of one 832x480 view, as the GPU script counted


@pytest.mark.parametrize(
    ("dtype", "milliseconds"),
    [
        ("bfloat16", 2.760 + 5.858),
        ("tf32", 8.185 + 19.537),
        ("float32", 39.338 + 64.723),
        ("float8", 2.817 + 5.279),
    ],
)
def test_an_h200_takes_what_one_took(dtype: str, milliseconds: float) -> None:
    expected = milliseconds / 1000
    assert TFLOP / stated_tflops("H200", dtype, 1) == pytest.approx(expected, rel=0.005)


def test_other_gpus_reach_the_same_share_and_what_they_lack_runs_in_bfloat16() -> None:
    share = stated_tflops("H200", "bfloat16", 1) / PUBLISHED_TFLOPS["H200"]["bfloat16"]
    assert stated_tflops("A100", "bfloat16", 1) == pytest.approx(312 * share)
    assert stated_tflops("A100", "float8", 1) == stated_tflops("A100", "bfloat16", 1)
    assert stated_tflops("cpu", "float32", 8) == 8 * stated_tflops("cpu", "float32", 1)


def test_the_slowest_stage_decides_and_on_a_cpu_all_of_them_add_up() -> None:
    fast = pace(1e9, 400, 602112, cpu=False)
    assert fast.slowest == "decode"
    assert fast.seconds_per_view == fast.decode_s
    slow = pace(1e15, 400, 602112, cpu=False)
    assert (slow.slowest, slow.seconds_per_view) == ("model", 2.5)
    alone = pace(1e12, 0.1, 602112, cpu=True)
    assert alone.stages["model"] == 10
    assert alone.seconds_per_view == sum(alone.stages.values()) > 10 + fast.decode_s + fast.store_s


def test_scaled_jpegs_take_fewer_cores_where_the_encoder_takes_them() -> None:
    plan = plan_units(
        [SceneEntry(scene_id="s", num_views=32, size_bytes=0)], num_views=32, scenes_per_shard=1
    )
    cores = []
    for resolution in ((480, 832), (1088, 1440)):  # ScanNet's 1296x968 is halved for the first
        for jpeg in ("whole", "scaled"):
            backbone = WanConfig(resolution=resolution)
            config = ExtractConfig(backbone=backbone, jpeg=jpeg)
            found = estimate(plan, config, planned_facts(backbone), Rates(gpu="H200"))
            cores.append(found["cores_per_worker"] * found["stages_s"]["model"])
    assert 0.5 < cores[1] / cores[0] < 0.85
    assert cores[2] == cores[3]


def test_the_memory_of_a_gpu_is_what_one_took() -> None:
    parameters = 1_090_000_000  # of blocks 0 to 20 and the VAE's encoder
    for batch, measured_gb in ((8, 5.31), (16, 8.80)):
        found = gpu_memory_bytes(parameters, "bfloat16", batch, 832 * 480) / 1e9
        assert found == pytest.approx(measured_gb, rel=0.08)


def test_an_encoder_without_weights_takes_nothing_of_a_gpu() -> None:
    assert gpu_memory_bytes(0, "float32", 16, 832 * 480) == 0


def planned(dtype: str, workers: int, num_scenes: int) -> dict:
    entries = [
        SceneEntry(scene_id=f"s{index}", num_views=32, size_bytes=1) for index in range(num_scenes)
    ]
    config = ExtractConfig(backbone=WanConfig(dtype=dtype), scenes_per_shard=8)
    facts = config.backbone.describe(WanConfig.published[config.backbone.model])
    rates = Rates(workers=workers, gpu="H100", tflops_per_worker=stated_tflops("H100", dtype, 1))
    plan = plan_units(entries, num_views=32, scenes_per_shard=8)
    return estimate(plan, config, facts, rates, Numerics(batch_size=0))


def test_precision_decides_the_time_of_a_plan() -> None:
    half, full = planned("bfloat16", 8, 1504), planned("float32", 8, 1504)
    assert half["bound_by"] == "model"  # a decoding thread was, at 10.9 ms a view
    assert full["bound_by"] == "model"
    assert full["wall_s"] > 5 * half["wall_s"]
    views_a_worker = 1504 * 32 / 8
    busy_s = full["wall_s"] - full["load_s"]
    assert busy_s == pytest.approx(full["stages_s"]["model"] * views_a_worker, rel=0.05)


def test_no_more_workers_are_busy_than_there_are_units() -> None:
    few = planned("bfloat16", 64, 16)
    assert few["workers_busy"] == 2
    assert few["price"] == pytest.approx(2 * few["wall_s"] / 3600 * 3.0)


def test_spans_and_sizes_are_written_as_people_do() -> None:
    assert [span_text(s) for s in (8.6, 88, 720, 7800, 273600)] == [
        "8.6 s", "88 s", "12 min", "2 h 10 min", "3 d 4 h",
    ]  # fmt: skip
    assert [size_text(n) for n in (602112, 19.3e9, 2.5e12)] == ["602 kB", "19.3 GB", "2.5 TB"]


@pytest.mark.slow
def test_a_plan_of_a_preset_needs_no_torch_and_no_network() -> None:
    code = (
        "import sys, json\nfrom vega3d.pipeline.cli import app\n"
        "import vega3d.pipeline.scenes.captures, vega3d.pipeline.backbones.grid\n"
        "try: app(['plan', 'rooms:4', '--gpu', 'H100', '--workers', '2'])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "heavy = {'torch', 'diffusers', 'zarr', 'ray', 'numba'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    env = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env=env
    )
    plan, heavy = map(json.loads, done.stdout.splitlines()[-2:])
    assert heavy == []
    assert plan["assumed"]["gpu"] == "H100"
