"""CLIP's tower of ViT-H size as generators condition on it: sizes only, standard library.

Source: laion/CLIP-ViT-H-14-laion2B-s32B-b79K, config.json (vision_config); transformers 5,
CLIPVisionModel.
"""

from collections.abc import Mapping
from typing import Any

from vega3d.pipeline.errors import CheckpointError

CLIP_PX = 224

CLIP_VIT_H = {
    "model_type": "clip_vision_model",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": CLIP_PX,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}


def clip_parameters(config: Mapping[str, Any], *, projected: bool) -> int:
    """Count the tower.

    Args:
        config: Its config.json.
        projected: The whole of it and its projection run; else all layers but the last, no norm.
    """
    if config.get("model_type") != "clip_vision_model":
        raise CheckpointError(
            f"image_encoder: model_type must be clip_vision_model, got {config.get('model_type')!r}"
        )
    width, mlp = int(config["hidden_size"]), int(config["intermediate_size"])
    positions = (int(config["image_size"]) // int(config["patch_size"])) ** 2 + 1
    embeddings = (3 * int(config["patch_size"]) ** 2 + 1 + positions + 2) * width
    layer = 4 * (width**2 + width) + 2 * width * mlp + mlp + width + 4 * width
    layers = int(config["num_hidden_layers"])
    if not projected:
        return embeddings + (layers - 1) * layer
    return embeddings + layers * layer + 2 * width + width * int(config["projection_dim"])


def clip_flops(config: Mapping[str, Any]) -> float:
    """Count the tower on one image, a multiply-add counted as two."""
    width, mlp = int(config["hidden_size"]), int(config["intermediate_size"])
    tokens = (int(config["image_size"]) // int(config["patch_size"])) ** 2 + 1
    layer = 8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * mlp
    return float(int(config["num_hidden_layers"]) * layer)
