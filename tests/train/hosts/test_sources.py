"""The prior of a host from a store and from the encoder beside it are the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vega3d.pipeline import load_backbone, open_store, read_scenes
from vega3d.pipeline.cli import app
from vega3d.pipeline.errors import UsageError
from vega3d.train.hosts.sources import OnlinePrior, StoredPrior


@pytest.mark.slow
def test_online_is_what_is_stored(tmp_path: Path) -> None:
    scenes, out = "rooms:1?views=3&height=64&width=80", str(tmp_path / "store")
    told = ["run", scenes, "--out", out, "--backbone", "rgb", "--resolution", "80x64"]
    done = CliRunner().invoke(app, [*told, "--grid", "5x4", "--store-dtype", "float32"])
    assert done.exit_code == 0, done.output
    stored = StoredPrior(open_store(out))
    backbone = load_backbone("rgb", resolution=(64, 80))
    online = OnlinePrior(backbone, grid=(4, 5))
    scene = read_scenes(scenes).read("room0000")
    rgb = np.stack([view.read_rgb() for view in scene.views])
    with pytest.raises(UsageError, match="room0000 was not seen"):
        online.tokens("room0000", [0])
    online.see("room0000", rgb, [view.view_id for view in scene.views])
    assert stored.num_channels == online.num_channels == 3
    torch.testing.assert_close(
        online.tokens("room0000", [2, 0]), stored.tokens("room0000", [2, 0]), atol=1e-5, rtol=0
    )
    with pytest.raises(UsageError, match="has 3 views in the store, not view 3"):
        stored.tokens("room0000", [3])
