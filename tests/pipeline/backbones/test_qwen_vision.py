"""Qwen2.5-VL's tower against a plain use of the whole model and its own processor's patches."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_window_index

from vega3d.pipeline.backbones.checkpoints import model_facts
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.qwen_vision import QwenVisionConfig
from vega3d.pipeline.backbones.small.encoders import write_qwen
from vega3d.pipeline.errors import CheckpointError

RGB = np.random.default_rng(0).integers(0, 256, (2, 140, 196, 3), dtype=np.uint8)  # 5 x 7 cells


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("qwen")
    write_qwen(place)
    return place


def encode(folder: Path, **settings: object) -> dict[str, Tensor]:
    backbone = load_backbone("qwen2.5-vl-vision", model=str(folder), **settings)
    return backbone.encode(RGB, scene_id="s", view_ids=["a", "b"])


def plain(folder: Path) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return the states that the whole model's tower passes on, its output, and the grid."""
    given = Qwen2VLImageProcessorPil(do_resize=False)(list(RGB), return_tensors="pt")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()
    kept: list[Tensor] = []
    for block in model.model.visual.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.no_grad():
        found = model.model.visual(given["pixel_values"], grid_thw=given["image_grid_thw"])
    return kept, found.pooler_output, given["image_grid_thw"]


def test_merged_tokens_are_what_the_language_model_gets(folder: Path) -> None:
    found = encode(folder, merger="after", resolution=(140, 196), batch_size=2)["merged"]
    expected = plain(folder)[1].reshape(2, 5, 7, 24)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_layers_tokens_stand_where_their_pixels_are(folder: Path) -> None:
    found = encode(folder, blocks=(0, 3), resolution=(140, 196))
    kept, _, grid = plain(folder)
    order, _ = get_vision_window_index(grid, 2, window_size=56, patch_size=14)
    for block in (0, 3):
        cells = torch.empty(2 * 35, 4, 32)
        cells[order] = kept[block].reshape(70, 4, 32)
        for view in range(2):
            for row in range(10):
                for col in range(14):
                    cell = view * 35 + (row // 2) * 7 + col // 2
                    torch.testing.assert_close(
                        found[f"b{block}"][view, row, col],
                        cells[cell, row % 2 * 2 + col % 2],
                        rtol=1e-5,
                        atol=1e-5,
                    )


@pytest.mark.slow
def test_the_merger_is_of_the_last_layer_s_tokens(folder: Path) -> None:
    before = encode(folder, resolution=(140, 196))["b3"]
    after = encode(folder, merger="after", resolution=(140, 196))["merged"]
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()
    cells = before.reshape(2, 5, 2, 7, 2, 32).transpose(2, 3).reshape(-1, 32)
    with torch.no_grad():
        expected = model.model.visual.merger(cells).reshape(2, 5, 7, 24)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


def test_sizes_and_blocks_that_the_merger_does_not_take_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="multiples of 28, got 640x480; nearest is 644x476"):
        encode(folder, resolution=(480, 640))
    with pytest.raises(ValueError, match="merger after reads the last layer alone"):
        encode(folder, merger="after", blocks=(2,))


@pytest.mark.slow
def test_a_processor_that_cuts_otherwise_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "merge_size": 4}))
    with pytest.raises(CheckpointError, match="merge_size must be 2, found 4"):
        load_backbone("qwen2.5-vl-vision", model=str(copy))


def test_a_store_of_merged_tokens_can_be_made_again_from_its_config(folder: Path) -> None:
    config = QwenVisionConfig(model=str(folder), merger="after")
    facts = model_facts(config)
    resolved = config.resolved(facts)
    assert resolved.blocks == (3,)
    assert model_facts(resolved) == facts


def test_auto_is_the_processor_s_size_for_640x480(folder: Path) -> None:
    backbone = load_backbone("qwen2.5-vl-vision", model=str(folder))
    assert backbone.canvas(480, 640) == (476, 644)
