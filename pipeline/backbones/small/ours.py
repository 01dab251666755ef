"""What no library has the class of, small: our own modules under the published tensors' names."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from vega3d.pipeline.backbones.openvla_vision import PREFIX, RENAMED, pair_of_towers
from vega3d.pipeline.backbones.small.seeded import seeded
from vega3d.pipeline.backbones.tensors import name_in_files
from vega3d.pipeline.backbones.vggt import VggtConfig
from vega3d.pipeline.backbones.vggt_trunk import Trunk

_SIDE = 224
_VGGT = {
    "embed_dim": 32,
    "img_size": _SIDE,
    "patch_size": 14,
    "depth": 3,
    "num_heads": 2,
    "encoder_depth": 2,
}
_FEATURIZERS = (
    {"width": 32, "depth": 3, "heads": 2, "mlp": 128, "registers": 4},
    {"width": 24, "depth": 4, "heads": 2, "mlp": 90, "registers": 0},
)


def write_vggt(folder: Path) -> None:
    """Write VGGT's trunk."""
    sizes = VggtConfig().sizes(_VGGT)
    trunk = seeded(
        Trunk, 0, sizes=sizes, heads=_VGGT["num_heads"], encoder_depth=_VGGT["encoder_depth"]
    )
    _save(trunk, folder, "aggregator.", {})
    (folder / "config.json").write_text(json.dumps(_VGGT))


def write_openvla(folder: Path) -> None:
    """Write OpenVLA's pair."""
    pair = seeded(pair_of_towers, 0, pair=_FEATURIZERS, native_px=_SIDE)
    _save(pair, folder, PREFIX, RENAMED)
    config = {
        "model_type": "openvla",
        "use_fused_vision_backbone": True,
        "timm_model_ids": ["small", "small"],
        "image_sizes": [_SIDE, _SIDE],
        "featurizers": _FEATURIZERS,
    }
    (folder / "config.json").write_text(json.dumps(config))


def _save(module: nn.Module, folder: Path, prefix: str, renamed: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    held: dict[str, torch.Tensor] = {
        name_in_files(name, prefix, renamed): tensor.detach().contiguous()
        for name, tensor in module.state_dict().items()
    }
    save_file(held, folder / "model.safetensors", {"format": "pt"})
