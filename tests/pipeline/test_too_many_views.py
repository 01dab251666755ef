"""Scenes of more views than the generator's rotary table holds: their failure, and said before."""

import json
import shutil
from pathlib import Path

import pytest

from vega3d.pipeline import open_store, read_scenes
from vega3d.pipeline.backbones.checkpoints import model_facts
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.estimate import Rates, estimate
from vega3d.pipeline.extract import extract
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.scene import SceneEntry


def config_of(tiny_wan: Path, folder: Path, positions: int, context: str) -> ExtractConfig:
    shutil.copytree(tiny_wan, folder)
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_max_seq_len": positions}))
    backbone = WanConfig(model=str(folder), resolution=(64, 64), context=context)
    return ExtractConfig(backbone=backbone, grid=(4, 4), num_views=0)


@pytest.mark.slow
def test_they_are_those_scenes_failures_and_the_run_goes_on(tiny_wan: Path, tmp_path: Path) -> None:
    config = config_of(tiny_wan, tmp_path / "m", 4, "stack")
    source = read_scenes("rooms:2?views=5&height=64&width=64")
    out = str(tmp_path / "s")
    for _ in range(2):  # and again
        summary = extract(source, out, config, numerics=Numerics(), run=run_inline)
        assert list(summary.failures) == ["room0000", "room0001"]
        assert "at most 4, got (5, 4, 4); take fewer --views" in summary.failures["room0000"]
    assert open_store(out).pending == ()


def test_the_plan_says_it_before(tiny_wan: Path, tmp_path: Path) -> None:
    config = config_of(tiny_wan, tmp_path / "m", 6, "stack")
    entries = [SceneEntry(scene_id=name, num_views=n, size_bytes=0) for name, n in
               (("few", 6), ("many", 7))]  # fmt: skip
    plan = plan_units(entries, num_views=0, scenes_per_shard=1)
    found = estimate(plan, config, model_facts(config.backbone), Rates())
    assert found["refused_scenes"] == ["many"]
    assert "at most 6, got (7, 4, 4)" in found["refused_because"]
