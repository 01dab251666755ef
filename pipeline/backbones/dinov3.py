"""DINOv3 vision transformers, ViT-S to ViT-7B.

A tap is the output of a layer, the class token and the four registers left out, through the model's
last norm. The released code takes the last 196 tokens of timm's `forward_features`, which are the
same, but loads weights of which 3 % fit.

Source: transformers 5, DINOv3ViTModel; facts of the released code: H-EmbodVis/VEGA-3D @ 9c96924.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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

if TYPE_CHECKING:
    from torch import Tensor


def _published(width: int, layers: int, mlp: int, heads: int, **differing: object) -> Configs:
    """Return a published config.json.

    Source: transformers, models/dinov3_vit/convert_dinov3_vit_to_hf.py (get_dinov3_config).
    """
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": mlp}
    shared = {"num_attention_heads": heads, "image_size": 224, "patch_size": 16}
    more = {"num_register_tokens": 4, "key_bias": False, "use_gated_mlp": False}
    return {".": {"model_type": "dinov3_vit", **sizes, **shared, **more, **differing}}


_GATED = {"use_gated_mlp": True, "hidden_act": "silu"}
_UNBIASED = {"query_bias": False, "value_bias": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dinov3Config(TowerConfig):
    """Settings of DINOv3, a self-supervised image encoder."""

    name: ClassVar[str] = "dinov3"
    classes: ClassVar[str] = "DINOv3ViTModel"
    licence: ClassVar[str] = "DINOv3 License"
    parts: ClassVar[tuple[str, ...]] = (".",)
    published: ClassVar[Mapping[str, Configs]] = {
        "facebook/dinov3-vits16-pretrain-lvd1689m": _published(384, 12, 1536, 6),
        "facebook/dinov3-vits16plus-pretrain-lvd1689m": _published(384, 12, 1536, 6, **_GATED),
        "facebook/dinov3-vitb16-pretrain-lvd1689m": _published(768, 12, 3072, 12),
        "facebook/dinov3-vitl16-pretrain-lvd1689m": _published(1024, 24, 4096, 16),
        "facebook/dinov3-vitl16-pretrain-sat493m": _published(1024, 24, 4096, 16),
        "facebook/dinov3-vith16plus-pretrain-lvd1689m": _published(1280, 32, 5120, 20, **_GATED),
        "facebook/dinov3-vit7b16-pretrain-lvd1689m": _published(
            4096, 40, 8192, 32, **_GATED, **_UNBIASED
        ),
    }

    model: str = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    final_norm: bool = True
    """Apply the model's last norm to every tap, as its own intermediate features have it."""

    def sizes(self, config: Mapping[str, Any]) -> TowerSizes:
        """Return the sizes that a config.json gives."""
        check_model_type(config, "dinov3_vit")
        # A published config.json holds only what differs from the class's defaults.
        # Source: transformers 5, DINOv3ViTConfig.
        width, mlp = int(config.get("hidden_size", 384)), int(config.get("intermediate_size", 1536))
        patch, gated = square(config.get("patch_size", 16)), bool(config.get("use_gated_mlp"))
        usual = {"query_bias": True, "key_bias": False, "value_bias": True, "proj_bias": True}
        biases = sum(bool(config.get(name, known)) for name, known in usual.items())
        registers = int(config.get("num_register_tokens", 0))
        return TowerSizes(
            width=width,
            layers=int(config.get("num_hidden_layers", 12)),
            mlp=mlp,
            gated=gated,
            patch=patch,
            native_px=square(config.get("image_size", 224)),
            prefix=1 + registers,
            embeddings=(3 * patch**2 + 1 + 1 + registers) * width,
            layer=layer_parameters(width, mlp, gated=gated, biases=biases, scales=2),
        )

    def load(self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt) -> Tower:
        """Return the encoder, cut after the last tap."""
        import torch
        from transformers import DINOv3ViTModel

        from vega3d.pipeline.backbones.weights import load_strictly

        model = load_strictly(DINOv3ViTModel, folder, torch.float32)
        model.embeddings.mask_token = None  # of its training alone
        embeddings = model.embeddings.to(numerics.device)
        turns = model.rope_embeddings.to(numerics.device)

        def embed(pixels: "Tensor") -> "tuple[Tensor, Mapping[str, Any]]":
            return embeddings(pixels), {"position_embeddings": turns(pixels)}

        parts = TowerParts(
            embed=embed,
            layers=getattr(model, "model", model).layer,  # in 5.0 without an encoder between
            norm=model.norm if self.final_norm else None,
            prefix=self.sizes(facts.configs["."]).prefix,
        )
        return Tower(parts, facts, numerics, self.dtype, image_statistics(folder, IMAGENET))
