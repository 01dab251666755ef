"""The small models that come with the package: small, usable by name, with random twins."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vega3d.pipeline.backbones import checkpoints
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.prompt import empty_prompt_embedding
from vega3d.pipeline.backbones.registry import configured, preset
from vega3d.pipeline.backbones.twins import write_random_generator, write_random_semantic
from vega3d.pipeline.scenes.reading import read_scenes

DESK = Path(checkpoints.__file__).parent / "desk"


@pytest.fixture(scope="module")
def views() -> np.ndarray:
    scene = read_scenes("rooms:1?views=2&height=128&width=160&seed=103").read("room0000")
    return np.stack([view.read_rgb() for view in scene.views])


def test_all_together_are_small_and_half_precision() -> None:
    files = [path for path in DESK.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    for path in DESK.rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}, path


def test_the_model_desk_brings_its_own_defaults_and_yields_to_what_is_said() -> None:
    config: Any = configured("wan2.1-t2v", {"model": "desk"})
    assert config == preset("desk")
    assert (config.blocks, config.timesteps, config.resolution) == ((4,), (300,), (128, 160))
    assert configured("wan2.1-t2v", {"model": "desk", "blocks": (1,)}).blocks == (1,)


@pytest.mark.slow
def test_the_model_desk_encodes_views(views: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    backbone = load_backbone(model="desk")
    assert "not used" not in capfd.readouterr().err  # blocks after the last tap are left out
    (features,) = backbone.encode(views, scene_id="room", view_ids=["0", "1"]).values()
    assert features.shape == (2, 8, 10, 128)
    assert torch.isfinite(features).all()


def test_its_empty_prompt_is_one_row_of_zeros_however_often_it_is_read(tmp_path: Path) -> None:
    for _ in range(2):  # encoded, then from the cache
        np.testing.assert_array_equal(empty_prompt_embedding("desk", tmp_path), np.zeros((1, 32)))


@pytest.mark.slow
def test_the_semantic_desk_model_encodes_views_with_defaults_of_its_own(views: np.ndarray) -> None:
    assert configured("siglip", {"model": "desk"}) == preset("desk-siglip")
    backbone = load_backbone("siglip", model="desk")
    (features,) = backbone.encode(views, scene_id="room", view_ids=["0", "1"]).values()
    assert features.shape == (2, 8, 10, 128)
    assert torch.isfinite(features).all()


def test_a_random_twin_shares_all_but_the_trained_weights(tmp_path: Path) -> None:
    write_random_generator("desk", tmp_path / "a", seed=1)
    write_random_generator("desk", tmp_path / "b", seed=1)
    ours, again, trained = (
        load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
        for folder in (tmp_path / "a", tmp_path / "b", DESK / "generator")
    )
    assert {name: w.shape for name, w in ours.items()} == {n: w.shape for n, w in trained.items()}
    assert all(torch.equal(ours[name], again[name]) for name in ours)
    name = "blocks.3.attn1.to_q.weight"
    assert not torch.allclose(ours[name], trained[name].float(), atol=0.01)
    for file in ("vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (DESK / "generator" / file).read_bytes()


@pytest.mark.slow
def test_a_random_semantic_twin_is_taken_by_the_same_loader(
    tmp_path: Path, tiny_siglip: Path, views: np.ndarray
) -> None:
    write_random_semantic(str(tiny_siglip), tmp_path / "twin", seed=5)
    made = [
        load_backbone("siglip", model=str(model), blocks=(1,), resolution=(56, 70)).encode(
            views, scene_id="room", view_ids=["0", "1"]
        )["b1"]
        for model in (tiny_siglip, tmp_path / "twin")
    ]
    assert made[0].shape == made[1].shape == (2, 4, 5, 48)
    assert not torch.allclose(made[0], made[1], atol=0.1)
