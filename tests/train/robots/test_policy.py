"""A run as a policy: online it sees what the stores hold, and does what the run would."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from demos import INSTRUCTION, write_demos

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import preset
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.extract import extract
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.store.store import open_store
from vega3d.train.checkpoint import load_weights
from vega3d.train.config import RunConfig, TrainConfig
from vega3d.train.demonstrations.bounds import Bounds
from vega3d.train.fitting import fit
from vega3d.train.loader import Loader
from vega3d.train.order import Sample
from vega3d.train.robots.policy import Policy
from vega3d.train.robots.simulator import Observation
from vega3d.train.rundir import read_record, recorded_model, recorded_pairing

CONFIG = TrainConfig(
    tasks=("action",),
    hidden_dim=16,
    heads=2,
    reader_layers=1,
    views_per_sample=2,
    batch_size=4,
    steps=2,
)
SCENE, FRAME, LENGTH = "red_demo/demo_1", 3, 5


@dataclass(frozen=True)
class Trained:
    run: Path
    demos: Path
    prior: str


@pytest.fixture(scope="module", params=["float16", "int8"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_wan: Path
) -> Trained:
    """A run over the tiny generator, whose noise has the view's name in it, and mean colours."""
    folder = tmp_path_factory.mktemp("policy")
    demos = write_demos(folder / "demos/red_demo.hdf5", [4, LENGTH], size=(48, 64))
    backbones = {
        "prior": WanConfig(model=str(tiny_wan), blocks=(0, 1), resolution=(48, 64)),
        "semantic": replace(preset("rgb"), resolution=(48, 64)),
    }
    for name, backbone in backbones.items():
        config = ExtractConfig(
            backbone=backbone, grid=(3, 4), num_views=0, store_dtype=request.param
        )
        extract(
            read_scenes(str(demos.parent)), str(folder / name), config,
            numerics=Numerics(threads=1), run=run_inline,
        )  # fmt: skip
    stores = [str(folder / name) for name in backbones]
    fit(
        *stores, folder / "run", CONFIG, RunConfig(workers=0), prior_tap="k300_b0",
        actions=[str(demos.parent)],
    )  # fmt: skip
    return Trained(folder / "run", demos, stores[0])


def seen_at(trained: Trained, frame: int) -> Observation:
    scene = read_scenes(str(trained.demos.parent)).read(SCENE)
    pictures = {view.view_id: view for view in scene.views}
    episode = recorded_pairing(read_record(trained.run)).demonstrations.by_scene[SCENE]
    cameras = ("agentview", "eye_in_hand")
    images = {camera: pictures[f"{camera}/{frame:06d}"].read_rgb() for camera in cameras}
    return Observation(images=images, proprio=episode.proprio[frame])


@pytest.mark.slow
def test_a_policy_sees_what_the_stores_hold_and_does_what_the_run_says(trained: Trained) -> None:
    policy = Policy(trained.run)
    assert policy.cameras == ("agentview", "eye_in_hand")
    assert policy.image_size == (48, 64)
    seen = seen_at(trained, FRAME)
    tokens, there = policy.encoders["prior"].tokens(
        seen.images["eye_in_hand"], scene_id=SCENE, view_id=f"eye_in_hand/{FRAME:06d}"
    )
    stored = open_store(trained.prior).features(SCENE, tap="k300_b0")[LENGTH + FRAME]
    # float16 of numbers that batches of other sizes round otherwise in the last place.
    np.testing.assert_allclose(tokens, stored.reshape(12, -1).astype(np.float32), rtol=2e-3)
    assert there.all()

    record = read_record(trained.run)
    pairing, model = recorded_pairing(record), recorded_model(record)
    load_weights(trained.run / "last.safetensors", model, record["identity"])
    loader = Loader(pairing, min_depth_share=0.5, workers=0, questions=pairing.asks(CONFIG))
    (batch,) = loader.batches([[Sample(SCENE, (FRAME, LENGTH + FRAME))]])
    with torch.no_grad():
        expected, _ = model.eval()(batch, model.targets(batch))
    bounds = Bounds.from_json(record["policy"]["actions"])
    actions = policy.act(seen, INSTRUCTION, scene_id=SCENE, frame=FRAME)
    assert actions.shape == (8, 7)
    np.testing.assert_allclose(actions, bounds.restored(expected["action"][0].numpy()), atol=5e-3)
    assert len(policy.seconds["encode"]) == 1
    first = Policy(trained.run, weights="untrained").act(
        seen, INSTRUCTION, scene_id=SCENE, frame=FRAME
    )
    assert np.abs(first - actions).max() > 1e-3


@pytest.mark.slow
def test_what_cannot_act_says_why(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        Policy(tmp_path)
    policy = Policy(trained.run)
    seen = seen_at(trained, 0)
    blind = replace(seen, images={"agentview": seen.images["agentview"]})
    with pytest.raises(UsageError, match="looks through .'eye_in_hand'., there is"):
        policy.act(blind, INSTRUCTION, scene_id="s", frame=0)
    with pytest.raises(UsageError, match="states of 8 numbers, this robot's has 7"):
        policy.act(replace(seen, proprio=seen.proprio[:7]), INSTRUCTION, scene_id="s", frame=0)
