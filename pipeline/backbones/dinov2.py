"""DINOv2, with registers or without.

A tap is the output of a layer, the class and register tokens left out, through the model's last
norm, as DINOv2's own `get_intermediate_layers` gives it.

Source: transformers 5, Dinov2Model and Dinov2WithRegistersModel; facebookresearch/dinov2,
dinov2/models/vision_transformer.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.preprocessing import IMAGENET, image_statistics
from vega3d.pipeline.backbones.settings import Configs, ModelFacts, Prompt
from vega3d.pipeline.backbones.towers import (
    Tower,
    TowerConfig,
    TowerParts,
    TowerSizes,
    check_model_type,
    layer_parameters,
    square,
)

_PLAIN, _REGISTERS = "dinov2", "dinov2_with_registers"


def _published(kind: str, width: int, layers: int, **differing: object) -> Configs:
    """Return a published config.json.

    Source: facebookresearch/dinov2, MODEL_CARD.md (widths and depths of S, B, L, g, 518 px);
    transformers, models/dinov2/convert_dinov2_to_hf.py (the fields).
    """
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    shared = {"image_size": 518, "patch_size": 14, "mlp_ratio": 4, "use_swiglu_ffn": False}
    return {".": {"model_type": kind, **sizes, **shared, **differing}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dinov2Config(TowerConfig):
    """Settings of DINOv2, a self-supervised image encoder."""

    name: ClassVar[str] = "dinov2"
    classes: ClassVar[str] = "Dinov2Model, Dinov2WithRegistersModel"
    licence: ClassVar[str] = "Apache-2.0"
    parts: ClassVar[tuple[str, ...]] = (".",)
    published: ClassVar[Mapping[str, Configs]] = {
        "facebook/dinov2-small": _published(_PLAIN, 384, 12),
        "facebook/dinov2-base": _published(_PLAIN, 768, 12),
        "facebook/dinov2-large": _published(_PLAIN, 1024, 24),
        "facebook/dinov2-giant": _published(_PLAIN, 1536, 40, use_swiglu_ffn=True),
        "facebook/dinov2-with-registers-large": _published(
            _REGISTERS, 1024, 24, num_register_tokens=4
        ),
    }

    model: str = "facebook/dinov2-large"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    final_norm: bool = True
    """Apply the model's last norm to every tap, as its own intermediate features have it."""

    def sizes(self, config: Mapping[str, Any]) -> TowerSizes:
        """Return the sizes that a config.json gives."""
        kind = check_model_type(config, _PLAIN, _REGISTERS)
        # A published config.json holds only what differs from the class's defaults.
        # Source: transformers 5, Dinov2Config and Dinov2WithRegistersConfig.
        patch = square(config.get("patch_size", 14 if kind == _PLAIN else 16))
        width, native = int(config.get("hidden_size", 768)), square(config.get("image_size", 224))
        mlp, gated = int(width * config.get("mlp_ratio", 4)), bool(config.get("use_swiglu_ffn"))
        if gated:  # two thirds of it, rounded up to 8, as the class has it
            mlp = (int(mlp * 2 / 3) + 7) // 8 * 8
        registers = int(config.get("num_register_tokens", 4)) if kind == _REGISTERS else 0
        positions = (native // patch) ** 2 + 1
        biases = 4 if config.get("qkv_bias", True) else 1
        return TowerSizes(
            width=width,
            layers=int(config.get("num_hidden_layers", 12)),
            mlp=mlp,
            gated=gated,
            patch=patch,
            native_px=native,
            prefix=1 + registers,
            embeddings=(3 * patch**2 + 1 + 1 + registers + positions) * width,
            layer=layer_parameters(width, mlp, gated=gated, biases=biases, scales=2),
        )

    def load(self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt) -> Tower:
        """Return the encoder, cut after the last tap."""
        import torch
        from transformers import Dinov2Model, Dinov2WithRegistersModel

        from vega3d.pipeline.backbones.weights import load_strictly

        registers = facts.configs["."]["model_type"] == _REGISTERS
        cls = Dinov2WithRegistersModel if registers else Dinov2Model
        model = load_strictly(cls, folder, torch.float32)
        model.embeddings.mask_token = None  # of its training alone
        embeddings = model.embeddings.to(numerics.device)
        parts = TowerParts(
            embed=lambda pixels: (embeddings(pixels), {}),
            layers=model.encoder.layer,
            norm=model.layernorm if self.final_norm else None,
            prefix=self.sizes(facts.configs["."]).prefix,
        )
        return Tower(parts, facts, numerics, self.dtype, image_statistics(folder, IMAGENET))
