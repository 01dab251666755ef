"""Tiny checkpoints whose tensors are called as the published ones, drawn as goldens were."""

import json
from pathlib import Path

import torch
from golden import drawn, tensors
from safetensors.torch import save_file

VGGT_TINY, OPENVLA_TINY = "vggt_tiny_tensors.json", "openvla_tiny_tensors.json"


def write_vggt(folder: Path) -> None:
    """Write a VGGT whose tensors are called as the published ones; its class is in no package."""
    folder.mkdir(exist_ok=True)
    held = {name: torch.from_numpy(drawn(name, shape)) for name, shape in tensors(VGGT_TINY)}
    # Heads stand in the published file too.
    held["camera_head.token_norm.weight"] = torch.ones(64)
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    sizes = {"embed_dim": 32, "img_size": 28, "patch_size": 14}
    small = {"depth": 3, "num_heads": 2, "encoder_depth": 2}
    (folder / "config.json").write_text(json.dumps({**sizes, **small}))


def write_openvla(folder: Path) -> None:
    """Write OpenVLA's pair, called as published, a bit of its language model beside it."""
    folder.mkdir(exist_ok=True)
    held = {name: torch.from_numpy(drawn(name, shape)) for name, shape in tensors(OPENVLA_TINY)}
    held["language_model.model.norm.weight"] = torch.ones(8)
    held["projector.fc1.bias"] = torch.zeros(8)
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    config = {
        "model_type": "openvla",
        "use_fused_vision_backbone": True,
        "timm_model_ids": ["small", "small"],
        "image_sizes": [28, 28],
        "auto_map": {"AutoConfig": "configuration_prismatic.OpenVLAConfig"},
        "featurizers": [
            {"width": 32, "depth": 3, "heads": 2, "mlp": 128, "registers": 4},
            {"width": 24, "depth": 4, "heads": 2, "mlp": 90, "registers": 0},
        ],
        "norm_stats": {"droid": {"num_transitions": 27044326}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    numbers = [
        {"mean": [0.484375, 0.455078125, 0.40625], "std": [0.228515625, 0.2236328125, 0.224609375]},
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    ]
    (folder / "preprocessor_config.json").write_text(json.dumps({"tvf_normalize_params": numbers}))
