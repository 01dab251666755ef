"""VGGT's trunk against goldens of the official module, and the published tensors' names and shapes.

The goldens: facebookresearch/vggt's `Aggregator` as H-EmbodVis/VEGA-3D @ 9c96924 carries it, with
2 + 2 x 3 layers, 32 channels, 2 heads and a table of 2 x 2 positions, run in float32 on the CPU
with weights and pictures of `golden.py`; `vggt_tensors.json` lists what `VGGT()` holds, 909,112,320
of its 1,256,537,516 parameters.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import FOLDER, pictures, tensors
from safetensors.torch import load_file, save_file
from tiny_encoders import write_vggt

from vega3d.pipeline.backbones.checkpoints import planned_facts
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.vggt import VggtConfig
from vega3d.pipeline.backbones.vggt_trunk import Trunk
from vega3d.pipeline.errors import CheckpointError

RGB = pictures(3, 28, 42)
IDS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vggt")
    write_vggt(place)
    return place


@pytest.mark.parametrize(("context", "taps"), [("stack", ("b0", "b2")), ("frame", ("b2",))])
def test_taps_are_the_official_module_s(folder: Path, context: str, taps: tuple[str, ...]) -> None:
    blocks = tuple(int(tap[1:]) for tap in taps)
    settings = {"context": context, "blocks": blocks, "resolution": (28, 42)}
    backbone = load_backbone("vggt", model=str(folder), **settings)
    found = backbone.encode(RGB, scene_id="s", view_ids=IDS)
    with np.load(FOLDER / "vggt_tiny.npz") as golden:
        for tap in taps:
            expected = torch.from_numpy(golden[f"{context}_{tap}"])
            torch.testing.assert_close(found[tap], expected, rtol=1e-5, atol=1e-5)


def test_the_published_names_and_shapes_are_the_trunk_s() -> None:
    config = VggtConfig()
    raw = config.published[config.model]["."]
    with torch.device("meta"):
        trunk = Trunk(config.sizes(raw), heads=16, encoder_depth=24)
    ours = {f"aggregator.{name}": tuple(v.shape) for name, v in trunk.state_dict().items()}
    published = dict(tensors("vggt_tensors.json"))
    assert published.pop("aggregator.patch_embed.mask_token") == (1, 1024)  # of training alone
    assert ours == published
    assert sum(v.numel() for v in trunk.parameters()) == 909_112_320 - 1024
    assert planned_facts(config).parameters == 909_112_320 - 1024


@pytest.mark.slow
def test_the_first_view_is_special_and_all_are_seen(folder: Path) -> None:
    backbone = load_backbone("vggt", model=str(folder), resolution=(28, 28))
    all_views = backbone.encode(RGB, scene_id="s", view_ids=IDS)["b2"]
    turned = backbone.encode(RGB[::-1].copy(), scene_id="s", view_ids=IDS)["b2"].flip(0)
    two = backbone.encode(RGB[:2], scene_id="s", view_ids=IDS[:2])["b2"]
    assert float((turned - all_views).abs().max()) > 1e-3
    assert float((two - all_views[:2]).abs().max()) > 1e-3


@pytest.mark.slow
def test_layers_after_the_tap_are_checked_all_the_same(folder: Path, tmp_path: Path) -> None:
    write_vggt(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held["aggregator.global_blocks.1.norm1.weight"] = torch.ones(33)
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError,
        match=r"of another shape: \['aggregator.global_blocks.1.norm1.weight'\] \(1 in all\)",
    ):
        load_backbone("vggt", model=str(tmp_path), blocks=(0,))


def test_auto_keeps_the_aspect_with_the_longer_side_518() -> None:
    config = VggtConfig()
    facts = planned_facts(config)
    assert config.canvas(facts, 480, 640) == (392, 518)
    assert config.canvas(facts, 1000, 504) == (518, 266)  # 261 px, and 252 is further
