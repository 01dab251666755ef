"""Encoders that see, small."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vega3d.pipeline.backbones.preprocessing import HALVES, IMAGENET, OPENAI, Statistics
from vega3d.pipeline.backbones.tiny import seed_weights
from vega3d.pipeline.backbones.weights import quiet

HEADS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 16,
    "max_position_embeddings": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def save(make: Callable[[], Any], folder: Path, seed: int = 0, mark: Statistics = IMAGENET) -> None:
    """Write a model with weights from a seed, and the numbers of its processor.

    Args:
        make: Returns the model.
        folder: Where to.
        seed: Of the weights.
        mark: Mean and std of the processor.
    """
    with torch.random.fork_rng(devices=[]):  # the classes draw weights of their own first
        model = make()
    seed_weights(model, seed)
    with quiet():
        model.save_pretrained(folder)
    numbers = {"image_mean": list(mark[0]), "image_std": list(mark[1]), "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(numbers))


def write_dinov2(folder: Path, **differing: object) -> None:
    """Write a DINOv2 without registers."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(**HEADS, image_size=56, patch_size=14, mlp_ratio=2, **differing)
    save(lambda: Dinov2Model(config), folder)


def write_dinov2_registers(folder: Path) -> None:
    """Write a DINOv2 with registers."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(**HEADS, image_size=56, patch_size=14, mlp_ratio=2)
    save(lambda: Dinov2WithRegistersModel(config), folder)


def write_dinov3(folder: Path, **differing: object) -> None:
    """Write a DINOv3 with its four registers."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(
        **HEADS, intermediate_size=64, image_size=64, num_register_tokens=4, **differing
    )
    save(lambda: DINOv3ViTModel(config), folder)


def write_siglip2(folder: Path) -> None:
    """Write a SigLIP 2 of a fixed size, both halves: it loads in SigLIP's classes."""
    from transformers import SiglipConfig, SiglipModel

    vision = {**HEADS, "intermediate_size": 64, "image_size": 64, "patch_size": 16}
    config = SiglipConfig(text_config=TEXT, vision_config=vision)
    save(lambda: SiglipModel(config), folder, mark=HALVES)


def write_clip(folder: Path) -> None:
    """Write a whole CLIP, both halves."""
    from transformers import CLIPConfig, CLIPModel

    vision = {**HEADS, "intermediate_size": 64, "image_size": 56, "patch_size": 14}
    config = CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=16)
    save(lambda: CLIPModel(config), folder, mark=OPENAI)


def write_vjepa2(folder: Path) -> None:
    """Write a V-JEPA 2, encoder and predictor."""
    from transformers import VJEPA2Config, VJEPA2Model

    half = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    config = VJEPA2Config(**HEADS, **half, crop_size=64, mlp_ratio=2.0, frames_per_clip=4)
    save(lambda: VJEPA2Model(config), folder)


def write_qwen(folder: Path) -> None:
    """Write a whole Qwen2.5-VL: its language model stands beside the tower in the file."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 24,
        "window_size": 56,
        "fullatt_block_indexes": [2],
    }
    text = {
        **HEADS,
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 32,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2]},
    }
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text)
    save(lambda: Qwen2_5_VLForConditionalGeneration(config), folder, mark=OPENAI)
