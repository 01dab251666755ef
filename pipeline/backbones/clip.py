"""CLIP's vision half.

A tap is the output of a layer, the class token left out, without the last norm; -2 is the
penultimate layer, which LLaVA reads.

Source: transformers 5, CLIPVisionModel; haotian-liu/LLaVA, multimodal_encoder/clip_encoder.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.preprocessing import OPENAI, image_statistics
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

if TYPE_CHECKING:
    from torch import Tensor

_OTHER_HALF = re.compile(
    r"text_model\..*|text_projection\.weight|visual_projection\.weight|logit_scale"
    r"|(vision_model\.)?embeddings\.position_ids"
)
"""Tensors of a whole-model checkpoint that the vision half does not read; `position_ids` counts
from 0 and was saved by versions of transformers before 4.31."""


def _published(width: int, layers: int, patch: int, side: int) -> Configs:
    """Return a published config.json.

    Source: openai/CLIP, model-card.md and clip/model.py (build_model: width / 64 heads, mlp 4x).
    """
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
    more = {"num_attention_heads": width // 64, "patch_size": patch, "image_size": side}
    return {".": {"model_type": "clip", "vision_config": {**sizes, **more}}}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig(TowerConfig):
    """Settings of CLIP's vision half, trained on images with captions."""

    name: ClassVar[str] = "clip"
    classes: ClassVar[str] = "CLIPVisionModel"
    licence: ClassVar[str] = "MIT"
    parts: ClassVar[tuple[str, ...]] = (".",)
    published: ClassVar[Mapping[str, Configs]] = {
        "openai/clip-vit-base-patch32": _published(768, 12, 32, 224),
        "openai/clip-vit-base-patch16": _published(768, 12, 16, 224),
        "openai/clip-vit-large-patch14": _published(1024, 24, 14, 224),
        "openai/clip-vit-large-patch14-336": _published(1024, 24, 14, 336),
    }

    model: str = "openai/clip-vit-large-patch14"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (-2,)
    """Layers whose OUTPUT is kept, from 0; negative counts from the end; LLaVA reads -2."""

    def sizes(self, config: Mapping[str, Any]) -> TowerSizes:
        """Return the sizes that a config.json gives."""
        check_model_type(config, "clip", "clip_vision_model")
        vision = config.get("vision_config", config)
        # A published config.json holds only what differs from the class's defaults.
        # Source: transformers 5, CLIPVisionConfig.
        width, mlp = int(vision.get("hidden_size", 768)), int(vision.get("intermediate_size", 3072))
        patch, native = square(vision.get("patch_size", 32)), square(vision.get("image_size", 224))
        positions = (native // patch) ** 2 + 1
        return TowerSizes(
            width=width,
            layers=int(vision.get("num_hidden_layers", 12)),
            mlp=mlp,
            patch=patch,
            native_px=native,
            prefix=1,
            embeddings=(3 * patch**2 + 1 + positions + 2) * width,  # and the norm before the layers
            layer=layer_parameters(width, mlp),
        )

    def load(self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt) -> Tower:
        """Return the vision half, cut after the last tap."""
        import torch
        from transformers import CLIPVisionModel

        from vega3d.pipeline.backbones.weights import load_strictly

        model = load_strictly(CLIPVisionModel, folder, torch.float32, may_skip=_OTHER_HALF)
        tower = getattr(model, "vision_model", model)  # some 5.x keep a wrapper
        embeddings = tower.embeddings.to(numerics.device)
        norm = tower.pre_layrnorm.to(numerics.device)
        native = (facts.native_px,) * 2

        def embed(pixels: "Tensor") -> "tuple[Tensor, Mapping[str, Any]]":
            other_size = tuple(pixels.shape[2:]) != native
            tokens = norm(embeddings(pixels, interpolate_pos_encoding=other_size))
            return tokens, {"attention_mask": None}

        parts = TowerParts(embed=embed, layers=tower.encoder.layers, norm=None, prefix=1)
        return Tower(parts, facts, numerics, self.dtype, image_statistics(folder, OPENAI))
