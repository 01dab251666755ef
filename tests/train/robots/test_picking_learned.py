"""The small table from demonstrations to rollouts: what was trained picks, the untrained not.

Some five minutes of one core.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("mujoco") is None or find_spec("h5py") is None:
    pytest.skip("needs mujoco and h5py", allow_module_level=True)

from vega3d.evaluate.benchmarks.libero import wilson
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import preset
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.extract import extract
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.train.config import RunConfig, TrainConfig
from vega3d.train.fitting import fit
from vega3d.train.robots.config import PickingConfig, RolloutConfig
from vega3d.train.robots.expert import write_demonstrations
from vega3d.train.robots.picking import Picking
from vega3d.train.robots.policy import Policy, Weights
from vega3d.train.robots.rolling import roll_out

DEMOS, EPISODES = 50, 5  # of each of the three tasks
CONFIG = TrainConfig(
    tasks=("action",), variant="semantic", hidden_dim=32, reader_layers=0, views_per_sample=2,
    batch_size=32, steps=3500, lr=4e-3, val_share=0.1,
)  # fmt: skip


@pytest.mark.slow
def test_a_trained_policy_picks_and_an_untrained_one_does_not(tmp_path: Path) -> None:
    size = (96, 120)
    try:
        table = Picking(size, seed=1000)
    except UsageError as error:
        pytest.skip(str(error))
    write_demonstrations(tmp_path, DEMOS, PickingConfig(height=size[0], width=size[1]))
    demos = str(tmp_path / "picking")
    encoder = replace(preset("rgb"), resolution=(256, 320))
    config = ExtractConfig(backbone=encoder, grid=(16, 20), num_views=0)
    store = str(tmp_path / "rgb")
    extract(read_scenes(demos), store, config, numerics=Numerics(threads=1), run=run_inline)
    run = RunConfig(workers=0, eval_every=CONFIG.steps, report_scenes=0)
    fit(store, store, tmp_path / "run", CONFIG, run, actions=[demos])

    def picked(weights: Weights) -> int:
        policy = Policy(tmp_path / "run", weights)
        rolled = RolloutConfig(episodes=EPISODES, open_loop=4, videos=0, weights=weights)
        found = roll_out(policy, table, tmp_path / weights, rolled, "policy")
        count: int = round(found["success"]["rate"] * 3 * EPISODES)
        return count

    trained, untrained = picked("last"), picked("untrained")
    assert wilson(trained, 3 * EPISODES)[0] > 0.4  # of 60 episodes 56 were seen to end well
    assert wilson(untrained, 3 * EPISODES)[1] < 0.25
