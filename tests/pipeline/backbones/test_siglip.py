import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Siglip2Config,
    Siglip2Model,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
)

from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.errors import CheckpointError

HALF = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
TEXT = {**HALF, "num_hidden_layers": 1, "vocab_size": 16, "max_position_embeddings": 4}
VISION = {**HALF, "num_hidden_layers": 4, "patch_size": 14}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
RNG = np.random.default_rng(0)


def save(model: torch.nn.Module, folder: Path) -> Path:
    with torch.no_grad():  # the published biases are not 0
        for weight in model.parameters():
            weight.add_(
                0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SiglipConfig(text_config=TEXT, vision_config={**VISION, "image_size": 96})
    return save(SiglipModel(config), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def vision_only(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision")
    SiglipVisionModel.from_pretrained(whole).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def naflex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = Siglip2Config(text_config=TEXT, vision_config={**VISION, "num_patches": 36})
    return save(Siglip2Model(config), tmp_path_factory.mktemp("naflex"))


def normalised(rgb: np.ndarray) -> Tensor:
    return torch.tensor(rgb).permute(0, 3, 1, 2).float() / 255 / 0.5 - 1


def load(folder: Path, **settings: object) -> object:
    return load_backbone("siglip", model=str(folder), **settings)


def encode(backbone: object, rgb: np.ndarray) -> dict[str, Tensor]:
    return backbone.encode(rgb, scene_id="s", view_ids=[str(i) for i in range(len(rgb))])


@pytest.mark.parametrize("layout", ["whole", "vision_only"])
def test_taps_are_transformers_hidden_states(layout: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(layout)
    rgb = RNG.integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    features = encode(load(folder, blocks=(-2, 0, 3), batch_size=2), rgb)
    assert list(features) == ["b2", "b0", "b3"]
    full = SiglipVisionModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = full(normalised(rgb), output_hidden_states=True).hidden_states
    for block in (0, 2):  # state 0 is the embedding; the last one may carry the final norm
        expected = states[block + 1].reshape(5, 6, 6, 32)
        torch.testing.assert_close(features[f"b{block}"], expected, rtol=1e-5, atol=1e-5)
    kept = []
    full.encoder.layers[3].register_forward_hook(lambda *call: kept.append(call[2]))
    with torch.no_grad():
        full(normalised(rgb))
    expected = kept[0].reshape(5, 6, 6, 32)
    torch.testing.assert_close(features["b3"], expected, rtol=1e-5, atol=1e-5)


def test_the_default_is_the_penultimate_layer_and_the_last_is_dropped(whole: Path) -> None:
    backbone = load(whole)
    assert backbone.taps == ("b2",)
    assert backbone.channels == 32
    assert backbone.canvas(480, 640) == (96, 96)
    token_map = backbone.token_map(480, 640)  # padded: 640 px become 96
    assert (token_map.rows, token_map.cols) == (6, 6)
    assert (6 - token_map.offset_col) / token_map.scale_col == pytest.approx(640 * 84 / 96)


def test_the_checkpoint_s_own_mean_and_std_are_taken(whole: Path, tmp_path: Path) -> None:
    """OpenAI's CLIP statistics, as some vision checkpoints have them."""
    folder = Path(shutil.copytree(whole, tmp_path / "m"))
    mean, std = [0.481, 0.458, 0.408], [0.269, 0.261, 0.276]
    config = folder / "preprocessor_config.json"
    config.write_text(json.dumps({"image_mean": mean, "image_std": std}))
    rgb = RNG.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    found = encode(load(folder, blocks=(0,)), rgb)["b0"]
    channels = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    m, s = channels
    pixels = (torch.tensor(rgb).permute(0, 3, 1, 2).float() / 255 - m) / s
    with torch.no_grad():
        full = SiglipVisionModel.from_pretrained(whole).eval()
        expected = full(pixels, output_hidden_states=True).hidden_states[1].reshape(2, 6, 6, 32)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    config.write_text(json.dumps({"image_mean": [0.5, 0.5], "image_std": std}))
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json: .* three each"):
        load(folder)


def test_another_size_interpolates_the_position_table(whole: Path) -> None:
    rgb = RNG.integers(0, 256, (2, 70, 126, 3), dtype=np.uint8)
    features = encode(load(whole, resolution=(70, 126), blocks=(1,)), rgb)["b1"]
    full = SiglipVisionModel.from_pretrained(whole).eval()
    with torch.no_grad():
        states = full(
            normalised(rgb), output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
    torch.testing.assert_close(features, states[2].reshape(2, 5, 9, 32), rtol=1e-5, atol=1e-5)


def test_naflex_keeps_the_aspect_and_agrees_with_transformers(naflex: Path) -> None:
    backbone = load(naflex, blocks=(-2,))
    rgb = RNG.integers(0, 256, (2, 56, 112, 3), dtype=np.uint8)
    canvas = backbone.canvas(56, 112)
    assert canvas == (4 * 14, 8 * 14)  # of at most about 36 tokens
    features = encode(backbone, rgb)["b2"]
    # The processor's order: patches row by row, each flattened row, column, colour; then padding.
    values = normalised(rgb).numpy()
    patches = np.zeros((2, 36, 14 * 14 * 3), np.float32)
    for token in range(32):
        r, c = divmod(token, 8)
        block = values[:, :, r * 14 : r * 14 + 14, c * 14 : c * 14 + 14]
        patches[:, token] = block.transpose(0, 2, 3, 1).reshape(2, -1)
    mask = torch.zeros(2, 36, dtype=torch.int32)
    mask[:, :32] = 1
    full = Siglip2VisionModel.from_pretrained(naflex).eval()
    with torch.no_grad():
        states = full(
            pixel_values=torch.from_numpy(patches),
            pixel_attention_mask=mask,
            spatial_shapes=torch.tensor([[4, 8], [4, 8]]),
            output_hidden_states=True,
        ).hidden_states
    expected = states[3][:, :32].reshape(2, 4, 8, 32)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=2e-5)


def test_a_block_out_of_range_is_refused(whole: Path) -> None:
    with pytest.raises(ValueError, match=r"blocks must lie in -4..3 for this model, got \[4\]"):
        load(whole, blocks=(4,))


def test_another_model_type_is_named(vision_only: Path, tmp_path: Path) -> None:
    config = json.loads((vision_only / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    (tmp_path / "model.safetensors").write_bytes((vision_only / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"model_type must be one of .*, found 'clip'"):
        load(tmp_path)


@pytest.mark.parametrize("layout", ["whole", "vision_only"])
def test_a_missing_tensor_is_named(
    layout: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(layout)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    name = next(
        name for name in sorted(tensors) if "layers.1.mlp.fc1.weight" in name and "text" not in name
    )
    tensors.pop(name)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: .*layers.1.mlp.fc1.weight"):
        load(tmp_path)
