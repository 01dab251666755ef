"""VGGT's trunk: what it makes of all views of a scene before its heads read cameras and depth.

A DINOv2 encoder turns each view into tokens; a camera and four register tokens come in front; then
layers within each view and layers across all of them take turns. A tap is a pair of those, side by
side: the view's layer, then the scene's. The first view is the one that cameras are told from, and
has special tokens of its own.

The class is in no package that we could depend on: depth-anything-3 0.1.1, which shares the trunk,
asks for numpy below 2, open3d, xformers and pycolmap, and its network cannot be had without them
(`depth_anything_3.model` imports evo and e3nn through `da3.py`, whichever module is asked for). So
it is written here against the published tensors' names.

Source: facebookresearch/vggt, vggt/models/aggregator.py, vggt/models/vggt.py (names and sizes of
VGGT-1B); arXiv 2503.11651, section 3.2.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vega3d.pipeline.backbones.numerics import Numerics, autocast
from vega3d.pipeline.backbones.preprocessing import IMAGENET
from vega3d.pipeline.backbones.settings import (
    Canvas,
    Configs,
    ModelFacts,
    Prompt,
    check_resolution,
)
from vega3d.pipeline.backbones.towers import (
    TowerConfig,
    TowerSizes,
    layer_flops,
    layer_parameters,
    round_products,
)
from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    from jaxtyping import Float32
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Views

_HEADS = re.compile(
    r"(camera_head|point_head|depth_head|track_head)\..*|aggregator\.patch_embed\.mask_token"
)
"""Heads that read cameras, points, depth and tracks, and what only training needs."""

_REGISTERS = 4
_DEPTH = 24
_PUBLISHED: Configs = {".": {"embed_dim": 1024, "img_size": 518, "patch_size": 14}}


@dataclass(frozen=True, kw_only=True, slots=True)
class VggtConfig(TowerConfig):
    """Settings of VGGT's trunk, trained to tell cameras, depth and points of many views."""

    name: ClassVar[str] = "vggt"
    classes: ClassVar[str] = "ours (published tensor names)"
    licence: ClassVar[str] = "CC-BY-NC-4.0"
    parts: ClassVar[tuple[str, ...]] = (".",)
    published: ClassVar[Mapping[str, Configs]] = {
        "facebook/VGGT-1B": {".": {"embed_dim": 1024, "img_size": 518, "patch_size": 14}},
        "facebook/VGGT-1B-Commercial": {
            ".": {"embed_dim": 1024, "img_size": 518, "patch_size": 14}
        },
    }

    model: str = "facebook/VGGT-1B"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    context: Literal["stack", "frame"] = "stack"
    """Which views the model sees together: all of a scene, the first being the one that cameras are
    told from, or each alone."""

    resolution: tuple[int, int] | Literal["auto", "native"] = "auto"
    """Size of the input, px, rows first in Python, multiples of 14; `auto` keeps each image's
    aspect with the longer side 518, as the model is used, `native` is the square of that."""

    def __post_init__(self) -> None:
        """Check every field once."""
        TowerConfig.__post_init__(self)
        check_resolution(self.resolution, multiple=14)

    def sizes(self, config: Mapping[str, Any]) -> TowerSizes:
        """Return the sizes that a config.json gives; those of a pair of layers are one layer's.

        The published config has three fields; `depth`, `num_heads` and `encoder_depth` are of small
        models in the same layout.
        """
        if not {"embed_dim", "img_size", "patch_size"} <= set(config) or "model_type" in config:
            raise CheckpointError("config.json must give embed_dim, img_size and patch_size")
        width, patch, native = (
            int(config[name]) for name in ("embed_dim", "patch_size", "img_size")
        )
        if patch != 14:
            raise CheckpointError(f"patch_size must be 14, found {patch}")
        places = (native // patch) ** 2 + 1
        plain = layer_parameters(width, 4 * width, scales=2)
        norms = 4 * (width // _heads(config))  # of queries and of keys
        encoder = (3 * patch**2 + 1 + 1 + places + _REGISTERS + 2) * width
        special = 2 * (1 + _REGISTERS) * width
        return TowerSizes(
            width=width,
            layers=int(config.get("depth", _DEPTH)),
            mlp=4 * width,
            patch=patch,
            native_px=native,
            prefix=1 + _REGISTERS,
            embeddings=encoder + special + _encoder_depth(config) * plain,
            layer=2 * (plain + norms),
        )

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know: a tap is two layers, side by side."""
        facts = TowerConfig.describe(self, configs)
        return replace(facts, channels=2 * facts.channels)

    def canvas(self, facts: ModelFacts, image_height: int, image_width: int) -> Canvas:
        """Return rows and columns of the input that an image of that size is brought to, px."""
        if self.resolution != "auto":
            return TowerConfig.canvas(self, facts, image_height, image_width)
        scale = facts.native_px / max(image_height, image_width) / facts.token_px
        rows, cols = (max(1, round(side * scale)) for side in (image_height, image_width))
        return rows * facts.token_px, cols * facts.token_px

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count the encoder, and the layers within views and across them up to the last tap."""
        config = facts.configs["."]
        sizes = self.sizes(config)
        patches = (canvas[0] // sizes.patch) * (canvas[1] // sizes.patch)
        tokens = patches + sizes.prefix
        seen = tokens * (num_views if self.context == "stack" else 1)
        encoder = _encoder_depth(config) * layer_flops(sizes, tokens)
        pair = layer_flops(sizes, tokens) + layer_flops(sizes, tokens, seen)
        embed = 2 * patches * sizes.width * 3 * sizes.patch**2
        return float(embed + encoder + (max(facts.blocks) + 1) * pair)

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "VggtEncoder":
        """Return the trunk, cut after the last tap, without heads."""
        return VggtEncoder(self, folder, facts, numerics)


def _heads(config: Mapping[str, Any]) -> int:
    return int(config.get("num_heads", 16))


def _encoder_depth(config: Mapping[str, Any]) -> int:
    return int(config.get("encoder_depth", 24))


class VggtEncoder:
    """The trunk, cut after the last tap."""

    def __init__(
        self, config: VggtConfig, folder: Path, facts: ModelFacts, numerics: Numerics
    ) -> None:
        """Load the trunk, checked; the layers that no tap needs are checked and not read."""
        import torch

        from vega3d.pipeline.backbones.tensors import read_into
        from vega3d.pipeline.backbones.vggt_trunk import Trunk

        raw = facts.configs["."]
        sizes, last = config.sizes(raw), max(facts.blocks)
        with torch.device("meta"):
            trunk = Trunk(sizes, heads=_heads(raw), encoder_depth=_encoder_depth(raw))
        late = re.compile(r"(frame|global)_blocks\.(\d+)\..*")
        read_into(
            trunk,
            folder,
            prefix="aggregator.",
            unread=_HEADS,
            needed=lambda name: not ((found := late.match(name)) and int(found[2]) > last),
        )
        trunk.frame_blocks = trunk.frame_blocks[: last + 1]
        trunk.global_blocks = trunk.global_blocks[: last + 1]
        self._trunk = trunk.to(numerics.device)
        if config.dtype == "bfloat16":
            round_products(self._trunk)
        self._facts, self._dtype, self._device = facts, config.dtype, numerics.device
        self.joint = config.context == "stack"

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield the output of each tapped pair of layers."""
        pixels = views.pixels(*IMAGENET)
        rows, cols = (side // self._facts.token_px for side in views.canvas)
        with autocast(self._dtype, self._device):
            pairs = self._trunk.pairs(pixels, joint=self.joint)
            for index, pair in enumerate(pairs):
                if index in self._facts.blocks:
                    yield f"b{index}", pair.float().reshape(len(views), rows, cols, -1)
