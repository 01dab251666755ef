"""V-JEPA 2 against a plain use of its class: tubelets, views and places."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import VJEPA2Model

from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.preprocessing import IMAGENET
from vega3d.pipeline.backbones.small.encoders import write_vjepa2

RGB = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vjepa2")
    write_vjepa2(place)
    return place


def encode(folder: Path, rgb: np.ndarray, **settings: object) -> dict[str, Tensor]:
    backbone = load_backbone("vjepa2", model=str(folder), **settings)
    return backbone.encode(rgb, scene_id="s", view_ids=[str(i) for i in range(len(rgb))])


def pixels(rgb: np.ndarray) -> Tensor:
    mean, std = (torch.tensor(values) for values in IMAGENET)
    return ((torch.tensor(rgb).float() / 255 - mean) / std).permute(0, 3, 1, 2)


def plain(folder: Path, video: Tensor, **config: object) -> list[Tensor]:
    """Return the hidden states of the class's own forward, and its output last."""
    model = VJEPA2Model.from_pretrained(folder, **config).eval()
    with torch.no_grad():
        found = model(video, skip_predictor=True, output_hidden_states=True)
    return [*found.hidden_states, found.last_hidden_state]


@pytest.mark.parametrize(
    ("context", "shown", "tubelet"),
    [
        ("stack", [0, 0, 1, 1, 2, 2], [0, 1, 2]),
        pytest.param("clip", [0, 1, 2, 2], [0, 0, 1], marks=pytest.mark.slow),
    ],
)
def test_a_scene_as_one_video(
    folder: Path, context: str, shown: list[int], tubelet: list[int]
) -> None:
    found = encode(folder, RGB, context=context, blocks=(1, -1))
    states = plain(folder, pixels(RGB)[shown][None])
    last = states[-1].reshape(len(shown) // 2, 4, 4, 32)[tubelet]
    torch.testing.assert_close(found["b3"], last, rtol=1e-5, atol=1e-5)
    raw = encode(folder, RGB, context=context, blocks=(1,), final_norm=False)["b1"]
    second = states[2].reshape(len(shown) // 2, 4, 4, 32)[tubelet]  # state 0 is the embedding
    torch.testing.assert_close(raw, second, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_view_alone_is_shown_twice(folder: Path) -> None:
    found = encode(folder, RGB)["b3"]
    video = pixels(RGB)[:, None].repeat(1, 2, 1, 1, 1)
    expected = plain(folder, video)[-1].reshape(3, 4, 4, 32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_wide_input_keeps_its_rows(folder: Path) -> None:
    """As where the checkpoint's square is as wide: the class counts tokens by the square's rows."""
    wide = np.random.default_rng(1).integers(0, 256, (2, 48, 96, 3), dtype=np.uint8)
    found = encode(folder, wide, resolution=(48, 96))["b3"]
    video = pixels(wide)[:, None].repeat(1, 2, 1, 1, 1)
    expected = plain(folder, video, crop_size=96)[-1].reshape(2, 3, 6, 32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_heads_that_name_actions_are_not_read(folder: Path, tmp_path: Path) -> None:
    held = load_file(folder / "model.safetensors")
    renamed = {f"vjepa2.{name}": values for name, values in held.items()}
    renamed["classifier.weight"] = torch.zeros(5, 32)
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["VJEPA2ForVideoClassification"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(
        encode(tmp_path, RGB)["b3"], encode(folder, RGB)["b3"], rtol=0, atol=0
    )
