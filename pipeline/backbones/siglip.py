"""SigLIP and SigLIP 2 vision encoders: the semantic half.

A tap is the output of an encoder layer, without the final norm; -2 is the penultimate layer, which
LLaVA reads. Layers after the last tap never run. Letters: n views, h w tokens, N = h w, C channels.

Source: H-EmbodVis/VEGA-3D @ 9c96924, llava/model/multimodal_encoder/siglip_encoder.py (the last
layer deleted, the rest read without a norm); transformers 5, SiglipVisionModel, Siglip2VisionModel.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics, autocast
from vega3d.pipeline.backbones.preprocessing import image_statistics
from vega3d.pipeline.backbones.settings import (
    BY_DEVICE,
    Canvas,
    Configs,
    Dtype,
    Fit,
    ModelFacts,
    Prompt,
    block_taps,
    check_blocks,
    check_choices,
    check_resolution,
    resolve_blocks,
)
from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    from jaxtyping import Float32
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Views

_TYPES = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")

_OTHER_HALF = re.compile(r"text_model\..*|logit_scale|logit_bias")
"""Tensors of a whole-model checkpoint that the vision half does not read."""


def _published(kind: str, **differing: int) -> Configs:
    """Return the config.json of a so400m checkpoint.

    Source: transformers, models/siglip/convert_siglip_to_hf.py and the same of siglip2.
    """
    so400m = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "patch_size": 14,
    }
    return {".": {"model_type": kind, "vision_config": {**so400m, **differing}}}


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipConfig(BackboneConfig):
    """Settings of SigLIP, the semantic half; it takes SigLIP 2 as well."""

    name: ClassVar[str] = "siglip"
    classes: ClassVar[str] = "SiglipVisionModel, Siglip2VisionModel"
    licence: ClassVar[str] = "Apache-2.0"
    parts: ClassVar[tuple[str, ...]] = (".",)
    published: ClassVar[Mapping[str, Configs]] = {
        "google/siglip-so400m-patch14-384": _published("siglip", image_size=384),
        "google/siglip2-so400m-patch14-384": _published("siglip", image_size=384),
        "google/siglip2-so400m-patch16-naflex": _published("siglip2", patch_size=16),
    }

    model: str = "google/siglip-so400m-patch14-384"
    """Hub id, a folder in the same layout, or `desk` (small, comes with the package). Its weights'
    hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (-2,)
    """Layers whose OUTPUT is kept, from 0; negative counts from the end; LLaVA reads -2."""

    resolution: tuple[int, int] | Literal["auto", "native"] = "native"
    """Size of the input, px, rows first in Python; `native` is the checkpoint's own square, `auto`
    keeps each image's aspect at about the token count of that."""

    fit: Fit = "pad"
    """How an image of another aspect gets there: pad (all of it is seen), crop, stretch."""

    dtype: Dtype = field(default="float32", metadata=BY_DEVICE)
    """Precision of the matrix products; norms and the residual stay float32."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        check_blocks(self.blocks)
        check_resolution(self.resolution)

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the vision half's config."""
        kind, raw = _vision_config(configs)
        # A published config.json holds only what differs from the class's defaults, filled in here.
        # Source: transformers 5, SiglipVisionConfig and Siglip2VisionConfig.
        defaults = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
        vision = {**defaults, "patch_size": 16, "image_size": 224, "num_patches": 256, **raw}
        naflex = kind.startswith("siglip2")
        blocks = resolve_blocks(self.blocks, int(vision["num_hidden_layers"]))
        side = 0 if naflex else int(vision["image_size"])
        patch = int(vision["patch_size"])
        positions = int(vision["num_patches"]) if naflex else (side // patch) ** 2
        return ModelFacts(
            channels=int(vision["hidden_size"]),
            num_blocks=int(vision["num_hidden_layers"]),
            blocks=blocks,
            taps=block_taps(blocks),
            token_px=patch,
            auto_tokens=positions,
            native_px=side,
            parameters=_parameters(vision, max(blocks) + 1, positions),
            configs={".": vision},
        )

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count patch embedding and layers up to the last tap."""
        tokens = (canvas[0] // facts.token_px) * (canvas[1] // facts.token_px)
        width = facts.channels
        mlp = 4 * tokens * width * int(facts.configs["."]["intermediate_size"])
        layer = 8 * tokens * width**2 + 4 * tokens**2 * width + mlp
        embed = 2 * tokens * width * 3 * facts.token_px**2
        return float(embed + (max(facts.blocks) + 1) * layer)

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "SiglipEncoder":
        """Return the vision half, cut after the last tap."""
        return SiglipEncoder(self, folder, facts, numerics)

    def stored(self) -> dict[str, Any]:
        """Return the settings as a store's config keeps them.

        Stores have named the generator's settings for SigLIP too; their digests stay.
        """
        own = BackboneConfig.stored(self)
        return {
            "model": own["model"],
            "blocks": own["blocks"],
            "timesteps": (),
            "resolution": own["resolution"],
            "fit": own["fit"],
            "context": "frame",
            "recipe": "vega3d",
            "dtype": own["dtype"],
            "noise_seed": 0,
            "noise_samples": 1,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Siglip2Config(SiglipConfig):
    """Settings of SigLIP 2, trained on captions, locations and patches of its own teacher."""

    name: ClassVar[str] = "siglip2"

    model: str = "google/siglip2-so400m-patch14-384"
    """Hub id, a folder in the same layout, or `desk` (small, comes with the package). Its weights'
    hash, not its name, is in the digest."""

    def stored(self) -> dict[str, Any]:
        """Return the settings as a store's config keeps them."""
        return BackboneConfig.stored(self)


class SiglipEncoder:
    """A vision transformer cut after the last tap.

    NaFlex checkpoints have no square of their own: `native` there means the image's aspect at about
    as many tokens as the position table has (256), which is also `auto`. Any other size
    interpolates the position table, as the classes themselves do.
    """

    joint = False

    def __init__(
        self, config: SiglipConfig, folder: Path, facts: ModelFacts, numerics: Numerics
    ) -> None:
        """Load the vision half, checked, and drop the layers that no tap needs."""
        import torch
        from transformers import Siglip2VisionModel, SiglipVisionModel

        from vega3d.pipeline.backbones.weights import load_strictly

        self._naflex = not facts.native_px
        cls = Siglip2VisionModel if self._naflex else SiglipVisionModel
        model = load_strictly(cls, folder, torch.float32, may_skip=_OTHER_HALF)
        tower = getattr(model, "vision_model", model)  # some 5.x keep a wrapper
        self._embeddings = tower.embeddings.to(numerics.device)
        self._layers = tower.encoder.layers[: max(facts.blocks) + 1].to(numerics.device)
        if config.dtype == "bfloat16":
            for layer in self._layers:
                layer.self_attn.to(torch.bfloat16)
                layer.mlp.to(torch.bfloat16)
        self._facts, self._dtype, self._device = facts, config.dtype, numerics.device
        mean, std = image_statistics(folder)
        # Pixels come in [-1, 1], which is what the published 0.5 and 0.5 ask for.
        shift, scale = torch.tensor([[0.5 - m for m in mean], [0.5 / s for s in std]])
        self._shift, self._scale = (
            part.to(numerics.device).view(1, 3, 1, 1) for part in (2 * shift, scale)
        )

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield the output of each tapped layer."""
        patch = self._facts.token_px
        rows, cols = views.canvas[0] // patch, views.canvas[1] // patch
        hidden = self._embed(self._normal(views.pixels()), rows, cols)
        with autocast(self._dtype, self._device):
            for index, layer in enumerate(self._layers):
                hidden = layer(hidden, attention_mask=None)
                if index in self._facts.blocks:
                    yield f"b{index}", hidden.reshape(len(views), rows, cols, -1).float()

    def _normal(self, pixels: "Float32[Tensor, 'n 3 H W']") -> "Float32[Tensor, 'n 3 H W']":
        """Return (x - mean) / std of values x in [0, 1], by the checkpoint's own mean and std."""
        normal: Tensor = (pixels + self._shift) * self._scale
        return normal

    def _embed(
        self, pixels: "Float32[Tensor, 'n 3 H W']", rows: int, cols: int
    ) -> "Float32[Tensor, 'n N C']":
        """Return patch plus position embeddings, in float32."""
        import torch

        if self._naflex:
            patches = _patches(pixels, self._facts.token_px)
            shapes = torch.tensor([[rows, cols]] * len(pixels), device=pixels.device)
            embedded: Tensor = self._embeddings(patches, shapes)
            return embedded
        other_size = tuple(pixels.shape[2:]) != (self._facts.native_px,) * 2
        interpolated: Tensor = self._embeddings(pixels, interpolate_pos_encoding=other_size)
        return interpolated


def desk() -> SiglipConfig:
    """Return the small encoder that comes with the package, with defaults of its own."""
    return SiglipConfig(model="desk", blocks=(-2,), resolution=(128, 160))


def _vision_config(configs: Configs) -> tuple[str, Mapping[str, Any]]:
    """Return the model type and the vision half's config of a SigLIP checkpoint."""
    config = configs["."]
    kind = config.get("model_type")
    if kind not in _TYPES:
        raise CheckpointError(f"model_type must be one of {list(_TYPES)}, found {kind!r}")
    return str(kind), config.get("vision_config", config)


def _parameters(vision: Mapping[str, Any], num_layers: int, positions: int) -> int:
    """Count patch and position embeddings and the first layers; the pooling head is dropped."""
    width, mlp = int(vision["hidden_size"]), int(vision["intermediate_size"])
    embeddings = (3 * int(vision["patch_size"]) ** 2 + 1) * width + positions * width
    attention = 4 * (width**2 + width)
    return embeddings + num_layers * (attention + 2 * width * mlp + mlp + width + 4 * width)


def _patches(
    pixels: "Float32[Tensor, 'n 3 H W']", patch_px: int
) -> "Float32[Tensor, 'n N values']":
    """Cut into patches row by row, each flattened row, column, colour as NaFlex is trained on."""
    rows, cols = pixels.shape[2] // patch_px, pixels.shape[3] // patch_px
    cut = pixels[:, :, : rows * patch_px, : cols * patch_px]
    split = cut.reshape(len(pixels), 3, rows, patch_px, cols, patch_px)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(len(pixels), rows * cols, -1)
