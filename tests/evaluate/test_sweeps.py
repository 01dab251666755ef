"""Maps over block and timestep, and the filter of taps."""

import json
from pathlib import Path

import numpy as np
import pytest

from vega3d.evaluate.config import ReportConfig, RunConfig, TapsConfig
from vega3d.evaluate.report import Report, report
from vega3d.evaluate.sweeps import heat_maps
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.imports import SceneArrays, import_arrays

GRID, VIEWS = (4, 5), 4
NOISE = {"k100_b5": 0.4, "k100_b20": 0.1, "k300_b5": 0.6, "k300_b20": 0.3, "k600_b20": 0.9}
"""How noisy each tap is: k100_b20 agrees best, k600_b20 least; k600_b5 is not there."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("swept") / "swept")
    scenes = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        xyz = rng.uniform(-0.2, 0.2, (VIEWS, *GRID, 3)).astype(np.float32)
        voxel = np.floor(xyz.astype(np.float64) / 0.1).astype(np.int64) + 1000
        own = [np.random.default_rng(v).standard_normal(8) for v in voxel.reshape(-1, 3)]
        base = np.reshape(own, (VIEWS, *GRID, 8))
        features = {
            tap: (base + level * rng.standard_normal(base.shape)).astype(np.float32)
            for tap, level in NOISE.items()
        }
        poses = np.tile(np.eye(4), (VIEWS, 1, 1))
        scenes.append(
            SceneArrays(
                scene_id=f"s{seed}",
                features=features,
                view_ids=tuple(map(str, range(VIEWS))),
                world_xyz=xyz,
                world_from_camera=poses,
            )
        )
    import_arrays(place, scenes, model="swept", store_dtype="float32")
    return place


def made(swept: str, out: Path, taps: TapsConfig | None = None) -> Report:
    config = ReportConfig(bootstrap_samples=50)
    return report([swept], str(out), config, RunConfig(scenes_shown=0), taps)


@pytest.mark.slow
def test_a_sweep_is_a_map_with_its_best_tap(swept: str, tmp_path: Path) -> None:
    written = made(swept, tmp_path)
    above = next(m for m in heat_maps(written.summary) if m.metric == "above_chance")
    assert above.timesteps == (100, 300, 600)
    assert [block for block, _ in above.rows] == [20, 5]
    best, worst = above.rows[0][1][0], above.rows[0][1][2]
    assert (above.best_tap, best.best, best.heat, worst.heat) == ("k100_b20", True, 100.0, 0.0)
    absent = above.rows[1][1][2]
    assert (absent.heat, absent.best) == (None, False)
    row = next(row for row in written.summary.rows if row.tap == "k100_b20")
    assert above.estimate == row.estimates["above_chance"]
    told = json.loads(written.json.read_text())["sweeps"]
    assert {"above_chance", "consistency", "auroc", "recall_10cm"} <= {m["metric"] for m in told}
    page = written.html.read_text()
    assert f"Best: k100_b20, {above.best.mean} ({above.best.interval})" in page


@pytest.mark.slow
def test_taps_filter_the_report(swept: str, tmp_path: Path) -> None:
    written = made(swept, tmp_path, TapsConfig(taps=("k300_*", "k100_b5")))
    assert {row.tap for row in written.summary.rows} == {"k300_b5", "k300_b20", "k100_b5"}
    assert "Best:" in written.html.read_text()
    alone = made(swept, tmp_path / "alone", TapsConfig(taps=("*_b20",)))
    assert list(heat_maps(alone.summary)) == []
    with pytest.raises(UsageError, match="--taps k3: no store has such a tap"):
        made(swept, tmp_path / "none", TapsConfig(taps=("k3",)))
