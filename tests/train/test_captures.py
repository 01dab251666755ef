"""The spatial tasks on real posed RGB-D, from two tiny random checkpoints: the whole way."""

import json
from pathlib import Path

import pytest

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.siglip import SiglipConfig
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.extract import extract
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.train import RunConfig, TrainConfig, fit


@pytest.mark.slow
def test_spatial_tasks_train_on_real_captures_and_are_scored_on_another_place(
    data: Path, tiny_wan: Path, tiny_siglip: Path, tmp_path: Path
) -> None:
    configs = {
        "wan": WanConfig(model=str(tiny_wan), resolution=(64, 96)),
        "siglip": SiglipConfig(model=str(tiny_siglip)),
    }
    for name, config in configs.items():
        summary = extract(
            read_scenes(str(data)),
            str(tmp_path / f"{name}.zarr"),
            ExtractConfig(backbone=config, num_views=8, scenes_per_shard=1),
            numerics=Numerics(threads=1),
            run=run_inline,
        )
        assert not summary.failures
    config = TrainConfig(
        tasks=("depth", "displacement", "matching"),
        hidden_dim=32,
        steps=40,
        batch_size=2,
        lr=3e-3,
    )
    run = RunConfig(log_every=1, eval_every=20, checkpoint_every=40, workers=1)
    found = fit(
        str(tmp_path / "wan.zarr"), str(tmp_path / "siglip.zarr"), tmp_path / "run", config, run
    )
    assert found["split"] == "scene"
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    # Far above a guess on a place it has never seen; position in the image alone does most of it.
    assert found["metrics"]["matching/recall"] > 5 * found["metrics"]["matching/recall_guess"]
    assert found["metrics"]["displacement/left_right"] > 0.7
