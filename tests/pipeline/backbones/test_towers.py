"""Vision transformers against a plain use of their classes: hidden states of the whole forward."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    DINOv3ViTModel,
    PreTrainedModel,
)

from vega3d.pipeline.backbones.checkpoints import planned_facts
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.preprocessing import IMAGENET, OPENAI
from vega3d.pipeline.backbones.registry import family
from vega3d.pipeline.backbones.small.encoders import (
    write_clip,
    write_dinov2,
    write_dinov2_registers,
    write_dinov3,
)
from vega3d.pipeline.errors import CheckpointError

RNG = np.random.default_rng(0)
GATED = {"use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False}

Case = tuple[str, Callable[[Path], None], type[PreTrainedModel], int, int]
CASES: Mapping[str, Case] = {
    # Encoder, writer, class, tokens in front of the image's, patch.
    "dinov2": ("dinov2", write_dinov2, Dinov2Model, 1, 14),
    "dinov2 giant": ("dinov2", partial(write_dinov2, use_swiglu_ffn=True), Dinov2Model, 1, 14),
    "dinov2 registers": ("dinov2", write_dinov2_registers, Dinov2WithRegistersModel, 5, 14),
    "dinov3": ("dinov3", write_dinov3, DINOv3ViTModel, 5, 16),
    "dinov3 gated": ("dinov3", partial(write_dinov3, **GATED), DINOv3ViTModel, 5, 16),
    "clip": ("clip", write_clip, CLIPVisionModel, 1, 14),
}


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name == "dinov3" else pytest.mark.slow) for name in CASES
    ]
)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Case, Path]:
    case = CASES[request.param]
    case[1](tmp_path / "model")
    return case, tmp_path / "model"


def encode(name: str, folder: Path, rgb: np.ndarray, **settings: object) -> dict[str, Tensor]:
    backbone = load_backbone(name, model=str(folder), **settings)
    return backbone.encode(rgb, scene_id="s", view_ids=[str(i) for i in range(len(rgb))])


def pixels(rgb: np.ndarray, name: str) -> Tensor:
    mean, std = OPENAI if name == "clip" else IMAGENET
    return ((torch.tensor(rgb).float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(
        0, 3, 1, 2
    )


@pytest.mark.parametrize("tokens", [(4, 4), (3, 6)])
def test_taps_are_the_states_of_the_class_s_own_forward(
    case: tuple[Case, Path], tokens: tuple[int, int]
) -> None:
    (name, _, cls, prefix, patch), folder = case
    rows, cols = tokens
    rgb = RNG.integers(0, 256, (3, rows * patch, cols * patch, 3), dtype=np.uint8)
    raw = {} if name == "clip" else {"final_norm": False}
    found = encode(name, folder, rgb, blocks=(0, 2), resolution=rgb.shape[1:3], batch_size=2, **raw)
    full = cls.from_pretrained(folder).eval()
    options = {"interpolate_pos_encoding": True} if name == "clip" else {}
    with torch.no_grad():
        states = full(pixels(rgb, name), output_hidden_states=True, **options).hidden_states
    for block in (0, 2):  # state 0 is the embedding
        expected = states[block + 1][:, prefix:].reshape(3, rows, cols, 32)
        torch.testing.assert_close(found[f"b{block}"], expected, rtol=1e-5, atol=1e-5)


def test_the_last_tap_is_the_class_s_own_output(case: tuple[Case, Path]) -> None:
    (name, _, cls, prefix, patch), folder = case
    rgb = RNG.integers(0, 256, (2, 4 * patch, 4 * patch, 3), dtype=np.uint8)
    found = encode(name, folder, rgb, blocks=(-1,))["b3"]
    with torch.no_grad():
        expected = cls.from_pretrained(folder).eval()(pixels(rgb, name)).last_hidden_state
    torch.testing.assert_close(
        found, expected[:, prefix:].reshape(2, 4, 4, 32), rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_position_ids_of_old_clip_checkpoints_are_no_fault(tmp_path: Path) -> None:
    write_clip(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    assert load_backbone("clip", model=str(tmp_path)).taps == ("b2",)


def test_a_processor_that_does_not_bring_pixels_to_one_is_refused(tmp_path: Path) -> None:
    write_dinov3(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"rescale_factor": 1.0}))
    with pytest.raises(CheckpointError, match=r"rescale_factor is 1.0; encoders here take"):
        load_backbone("dinov3", model=str(tmp_path))


def test_without_a_processor_s_file_the_family_s_numbers_are_taken(tmp_path: Path) -> None:
    write_dinov3(tmp_path)
    rgb = RNG.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    known = encode("dinov3", tmp_path, rgb)
    (tmp_path / "preprocessor_config.json").unlink()
    torch.testing.assert_close(encode("dinov3", tmp_path, rgb), known, rtol=0, atol=0)


DOCUMENTED = {
    # Source: facebookresearch/dinov2, MODEL_CARD.md; facebookresearch/dinov3 and
    # facebookresearch/vjepa2, README.md.
    ("dinov2", "facebook/dinov2-small"): 21,
    ("dinov2", "facebook/dinov2-base"): 86,
    ("dinov2", "facebook/dinov2-large"): 300,
    ("dinov2", "facebook/dinov2-giant"): 1100,
    ("dinov3", "facebook/dinov3-vits16-pretrain-lvd1689m"): 21,
    ("dinov3", "facebook/dinov3-vits16plus-pretrain-lvd1689m"): 29,
    ("dinov3", "facebook/dinov3-vitb16-pretrain-lvd1689m"): 86,
    ("dinov3", "facebook/dinov3-vitl16-pretrain-lvd1689m"): 300,
    ("dinov3", "facebook/dinov3-vith16plus-pretrain-lvd1689m"): 840,
    ("dinov3", "facebook/dinov3-vit7b16-pretrain-lvd1689m"): 6716,
    ("vjepa2", "facebook/vjepa2-vitl-fpc64-256"): 300,
    ("vjepa2", "facebook/vjepa2-vith-fpc64-256"): 600,
    ("vjepa2", "facebook/vjepa2-vitg-fpc64-384"): 1000,
}
"""Millions of parameters that the publishers tell, to one or two digits."""


@pytest.mark.parametrize(("name", "model"), DOCUMENTED)
def test_published_sizes_have_the_documented_number_of_parameters(name: str, model: str) -> None:
    found = planned_facts(family(name)(model=model)).parameters / 1e6
    assert found == pytest.approx(DOCUMENTED[name, model], rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2", "dinov3", "clip", "siglip", "vjepa2"])
def test_every_published_size_is_the_real_class_s(name: str) -> None:
    """The class, made of each published config on the meta device, holds what planning counts."""
    for model, configs in family(name).published.items():
        facts = planned_facts(family(name)(model=model, blocks=(-1,)))
        given = dict(configs["."])
        config = AutoConfig.for_model(given.pop("model_type"), **given)
        with torch.device("meta"):
            whole = AutoModel.from_config(config)
        counted = {part: v.numel() for part, v in whole.named_parameters() if not _idle(part)}
        assert sum(counted.values()) == facts.parameters, model


def _idle(part: str) -> bool:
    """Say whether an encoder has no use for a part: another half, a head, what training needs."""
    other = ("text_model", "logit", "_projection.weight", "vision_model.head", "post_layernorm")
    return any(word in part for word in (*other, "mask_token", "predictor"))
