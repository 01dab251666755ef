"""OpenVLA's pair against goldens of timm's classes, and transformers' own of the same halves.

The goldens: timm 1.0.31's `VisionTransformer` as OpenVLA makes it (no class position and 4
registers; SigLIP's without a class token), 3 and 4 layers, 32 and 24 channels, with weights and
pictures of `golden.py`, `get_intermediate_layers` of the penultimate block; `openvla_tensors.json`
lists what timm's two models hold, called as in openvla-7b.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import FOLDER, drawn, pictures, tensors
from tiny_encoders import OPENVLA_TINY, write_openvla
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from vega3d.pipeline.backbones.checkpoints import planned_facts
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.openvla_vision import OpenvlaVisionConfig
from vega3d.pipeline.errors import CheckpointError

RGB = pictures(3, 28, 28)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("openvla")
    write_openvla(place)
    return place


def encode(folder: Path, **settings: object) -> Tensor:
    backbone = load_backbone("openvla-vision", model=str(folder), **settings)
    return backbone.encode(RGB, scene_id="s", view_ids=["a", "b", "c"])["penultimate"]


def test_the_pair_is_timm_s(folder: Path) -> None:
    with np.load(FOLDER / "openvla_tiny.npz") as golden:
        expected = torch.from_numpy(golden["penultimate"])
    torch.testing.assert_close(encode(folder), expected, rtol=1e-5, atol=1e-5)


def test_the_second_half_is_transformers_siglip(folder: Path) -> None:
    """The same weights under transformers' names, in its class: another way to the same numbers."""
    config = SiglipVisionConfig(
        hidden_size=24,
        intermediate_size=90,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        hidden_act="gelu",  # timm's SigLIP of this size has the exact one, transformers' tanh
        vision_use_head=False,
    )
    model = SiglipVisionModel(config).eval()
    model.load_state_dict(_as_siglip(), strict=True)
    pixels = torch.tensor(RGB).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        state = model(pixels, output_hidden_states=True).hidden_states[3]
    expected = state.reshape(3, 2, 2, 24)
    torch.testing.assert_close(encode(folder)[..., 32:], expected, rtol=1e-5, atol=1e-5)


def _as_siglip() -> dict[str, Tensor]:
    prefix = "vision_backbone.fused_featurizer."
    held = {
        name.removeprefix(prefix): torch.from_numpy(drawn(name, shape))
        for name, shape in tensors(OPENVLA_TINY)
        if name.startswith(prefix) and "attn_pool" not in name
    }
    found = {
        "embeddings.patch_embedding.weight": held.pop("patch_embed.proj.weight"),
        "embeddings.patch_embedding.bias": held.pop("patch_embed.proj.bias"),
        "embeddings.position_embedding.weight": held.pop("pos_embed")[0],
        "post_layernorm.weight": held.pop("norm.weight"),
        "post_layernorm.bias": held.pop("norm.bias"),
    }
    parts = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
    for name, values in held.items():
        layer = name.replace("blocks.", "encoder.layers.")
        if "attn.qkv" in layer:
            for which, third in zip("qkv", values.chunk(3), strict=True):
                found[layer.replace("attn.qkv", f"self_attn.{which}_proj")] = third
            continue
        for theirs, ours in parts.items():
            layer = layer.replace(theirs, ours)
        found[layer] = values
    return found


def test_the_published_names_and_shapes_are_the_pair_s(monkeypatch: pytest.MonkeyPatch) -> None:
    from vega3d.pipeline.backbones import tensors as own_tensors
    from vega3d.pipeline.backbones.numerics import Numerics

    asked = {}

    def noted(module: torch.nn.Module, _folder: Path, **options: object) -> torch.nn.Module:
        back = {ours: theirs for theirs, ours in options["renamed"].items()}
        asked["unread"] = options["unread"]
        asked["names"] = {
            options["prefix"] + ".".join(back.get(part, part) for part in name.split(".")): v.shape
            for name, v in module.state_dict().items()
        }
        return module

    config, numerics = OpenvlaVisionConfig(), Numerics()
    object.__setattr__(numerics, "device", "meta")
    with monkeypatch.context() as patched:
        patched.setattr(own_tensors, "read_into", noted)
        config.load(Path("nowhere"), planned_facts(config), numerics, {})
    published = dict(tensors("openvla_tensors.json"))
    unread = {name for name in published if asked["unread"].fullmatch(name)}
    assert {name.split(".")[2] for name in unread} == {"norm", "attn_pool"}
    assert asked["names"] == {n: s for n, s in published.items() if n not in unread}


@pytest.mark.slow
def test_the_checkpoint_s_own_means_are_taken_for_each(folder: Path, tmp_path: Path) -> None:
    write_openvla(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    config = json.loads(path.read_text())
    config["tvf_normalize_params"][1]["mean"] = [0.4, 0.5, 0.6]
    path.write_text(json.dumps(config))
    there, here = encode(tmp_path), encode(folder)
    torch.testing.assert_close(there[..., :32], here[..., :32], rtol=0, atol=0)
    assert float((there[..., 32:] - here[..., 32:]).abs().max()) > 1e-2
    config["tvf_normalize_params"] = config["tvf_normalize_params"][:1]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="tvf_normalize_params must be two"):
        encode(tmp_path)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"use_fused_vision_backbone": False}, "must be an openvla model with two vision encoders"),
        ({"featurizers": None}, "timm_model_ids must be"),
        ({"timm_override_act_layers": ["quick_gelu", None]}, "other than null are not known"),
        ({"image_sizes": [28, 42]}, "image_sizes must be one"),
    ],
)
def test_other_pairs_are_named(tmp_path: Path, changed: dict[str, object], told: str) -> None:
    write_openvla(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(CheckpointError, match=told):
        encode(tmp_path)
