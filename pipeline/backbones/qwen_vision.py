"""Qwen2.5-VL's vision tower: its tokens before the 2x2 merger, or what the language model gets.

Most layers attend within windows of 112 px, for which the class brings tokens into another order;
it is undone here. An image is shown as two equal frames, as the processor does.

Source: transformers 5, Qwen2_5_VisionTransformerPretrainedModel and Qwen2VLImageProcessor (the
order of patches: cells of 2x2, each patch colour, frame, row, column).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vega3d.pipeline.backbones.numerics import Numerics, autocast
from vega3d.pipeline.backbones.preprocessing import OPENAI, check_steps, image_statistics
from vega3d.pipeline.backbones.settings import (
    Canvas,
    Configs,
    ModelFacts,
    Prompt,
    auto_canvas,
    check_resolution,
)
from vega3d.pipeline.backbones.towers import (
    TowerConfig,
    TowerSizes,
    check_model_type,
    layer_flops,
    layer_parameters,
    round_products,
)
from vega3d.pipeline.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from jaxtyping import Float32
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Views

_LANGUAGE = re.compile(r"lm_head\..*|(model\.)?(language_model|layers|embed_tokens|norm)\..*")
"""The language model's tensors, which stand beside the tower's in the published files."""

_RENAMED = {r"^(model\.)?visual\.": ""}
_TOWER = r"(model\.)?visual\..*"
_MERGED = 28
"""Side of a merged cell, px: a size must be a multiple of it."""

_FRAMES = 2

_AUTO_CELLS = 391
"""Merged cells of `auto`: 17 x 23 are 640x480, which the processor would round to 644x476."""


def _published(out: int) -> Configs:
    """Return a published config.json; models differ in the width of their language model.

    Source: Qwen/Qwen2.5-VL-7B-Instruct and -3B-Instruct, config.json, vision_config; technical
    report, arXiv 2502.13923, table 1 (1280 wide, 32 layers, 16 heads, windows of 112 px, full
    attention in layers 7, 15, 23, 31; its MLP is 3456 wide, the files' 3420).
    """
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": out,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    return {".": {"model_type": "qwen2_5_vl", "vision_config": vision}}


@dataclass(frozen=True, kw_only=True, slots=True)
class QwenVisionConfig(TowerConfig):
    """Settings of Qwen2.5-VL's vision tower, trained with its language model."""

    name: ClassVar[str] = "qwen2.5-vl-vision"
    classes: ClassVar[str] = "Qwen2_5_VisionTransformerPretrainedModel"
    licence: ClassVar[str] = "Apache-2.0"
    parts: ClassVar[tuple[str, ...]] = (".",)
    reads: ClassVar[str] = _TOWER
    published: ClassVar[Mapping[str, Configs]] = {
        "Qwen/Qwen2.5-VL-7B-Instruct": _published(3584),
        "Qwen/Qwen2.5-VL-3B-Instruct": _published(2048),
    }

    model: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    merger: Literal["before", "after"] = "before"
    """Which tokens: the layers' own, of 14 px, or those of 28 px that the 2x2 merger makes of the
    last layer's, as the language model gets them."""

    resolution: tuple[int, int] | Literal["auto"] = "auto"
    """Size of the input, px, rows first in Python, multiples of 28; `auto` keeps each image's
    aspect at about as many tokens as 640x480 has there, 1564."""

    def __post_init__(self) -> None:
        """Check every field once."""
        TowerConfig.__post_init__(self)
        check_resolution(self.resolution, words=("auto",), multiple=_MERGED)

    def sizes(self, config: Mapping[str, Any]) -> TowerSizes:
        """Return the sizes that a config.json gives."""
        check_model_type(config, "qwen2_5_vl", "qwen2_5_vl_vision")
        vision = config.get("vision_config", config)
        needed = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": _FRAMES}
        for name, known in needed.items():
            if vision.get(name, known) != known:
                raise CheckpointError(f"{name} must be {known}, found {vision[name]}")
        width, mlp = int(vision["hidden_size"]), int(vision.get("intermediate_size", 3420))
        # Its two norms have no bias.
        layer = layer_parameters(width, mlp, gated=True) - 2 * width
        return TowerSizes(
            width=width,
            layers=int(vision.get("depth", 32)),
            mlp=mlp,
            gated=True,
            patch=14,
            native_px=0,
            embeddings=3 * _FRAMES * 14**2 * width,
            layer=layer,
            patch_inputs=3 * _FRAMES,
        )

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know."""
        facts = TowerConfig.describe(self, configs)
        if self.merger == "before":
            return replace(facts, auto_tokens=4 * _AUTO_CELLS)
        if facts.blocks != (facts.num_blocks - 1,):
            raise UsageError(f"merger after reads the last layer alone, got blocks {self.blocks}")
        out = int(_vision(configs["."]).get("out_hidden_size", 3584))
        merged = 4 * facts.channels
        return replace(
            facts,
            channels=out,
            taps=("merged",),
            token_px=_MERGED,
            auto_tokens=_AUTO_CELLS,
            parameters=facts.parameters + facts.channels + merged * (merged + out + 1) + out,
        )

    def canvas(self, facts: ModelFacts, image_height: int, image_width: int) -> Canvas:
        """Return rows and columns of the input: whole cells of the merger."""
        if isinstance(self.resolution, tuple):
            return self.resolution
        return auto_canvas(image_height, image_width, _AUTO_CELLS, _MERGED)

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count patch embedding, layers up to the last tap, and the merger where it runs."""
        sizes, vision = self.sizes(facts.configs["."]), _vision(facts.configs["."])
        tokens = (canvas[0] // 14) * (canvas[1] // 14)
        window = min(tokens, (int(vision.get("window_size", 112)) // 14) ** 2)
        full = set(vision.get("fullatt_block_indexes", (7, 15, 23, 31)))
        total = 2.0 * tokens * sizes.width * sizes.patch_inputs * 14**2
        for index in range(max(facts.blocks) + 1):
            total += layer_flops(sizes, tokens, 0 if index in full else window)
        if self.merger == "after":
            total += tokens // 4 * 2 * 4 * sizes.width * (4 * sizes.width + facts.channels)
        return total

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "QwenVisionEncoder":
        """Return the tower, cut after the last tap."""
        return QwenVisionEncoder(self, folder, facts, numerics)


def _vision(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.get("vision_config", config)
    return found


class QwenVisionEncoder:
    """The vision tower, cut after the last tap; without the merger where no tap needs it."""

    joint = False

    def __init__(
        self, config: QwenVisionConfig, folder: Path, facts: ModelFacts, numerics: Numerics
    ) -> None:
        """Load the tower, checked; the language model's tensors are not read."""
        import torch
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
            Qwen2_5_VisionTransformerPretrainedModel,
        )

        from vega3d.pipeline.backbones.weights import load_strictly

        tower = load_strictly(
            Qwen2_5_VisionTransformerPretrainedModel,
            folder,
            torch.float32,
            may_skip=_LANGUAGE,
            renamed=_RENAMED,
        )
        tower.blocks = tower.blocks[: max(facts.blocks) + 1]
        if config.merger == "before":
            tower.merger = torch.nn.Identity()
        self._tower = tower.to(numerics.device)
        if config.dtype == "bfloat16":
            round_products(self._tower)
        self._config, self._facts, self._device = config, facts, numerics.device
        self._statistics = image_statistics(folder, OPENAI)
        check_steps(folder, patch_size=14, merge_size=2, temporal_patch_size=_FRAMES)

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield the output of each tapped layer, or the merged tokens."""
        import torch

        count, rows, cols = len(views), views.canvas[0] // 14, views.canvas[1] // 14
        grid = torch.tensor([[1, rows, cols]] * count, device=self._device)
        patches = _patches(views.pixels(*self._statistics))
        if self._config.merger == "after":
            with autocast(self._config.dtype, self._device):
                merged = self._tower(patches, grid_thw=grid).pooler_output
            yield "merged", merged.float().reshape(count, rows // 2, cols // 2, -1)
            return
        yield from self._layers(patches, grid, count, rows, cols)

    def _layers(
        self, patches: "Tensor", grid: "Tensor", count: int, rows: int, cols: int
    ) -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield the tapped layers' outputs, as the class's own forward passes them on."""
        kept: dict[int, Tensor] = {}
        hooks = [
            block.register_forward_hook(lambda _m, _i, out, at=index: kept.update({at: out}))
            for index, block in enumerate(self._tower.blocks)
            if index in self._facts.blocks
        ]
        try:
            with autocast(self._config.dtype, self._device):
                self._tower(patches, grid_thw=grid)
        finally:
            for hook in hooks:
                hook.remove()
        cells = _window_order(rows // 2, cols // 2, self._tower.window_size // _MERGED)
        for index, hidden in kept.items():
            by_cell = hidden.float().reshape(count, rows * cols // 4, 4, -1)
            back = by_cell.new_empty(by_cell.shape)
            back[:, cells] = by_cell
            # (rows/2 cols/2) (2 2) C -> rows cols C
            split = back.reshape(count, rows // 2, cols // 2, 2, 2, -1)
            yield f"b{index}", split.transpose(2, 3).reshape(count, rows, cols, -1)


def _window_order(rows: int, cols: int, side: int) -> list[int]:
    """Return the number of each merged cell in the order in which the layers see them.

    Windows go row by row, and so do the cells of a window; those at the right and lower edge are
    smaller.
    """
    return [
        row * cols + col
        for top in range(0, rows, side)
        for left in range(0, cols, side)
        for row in range(top, min(top + side, rows))
        for col in range(left, min(left + side, cols))
    ]


def _patches(pixels: "Float32[Tensor, 'n 3 H W']") -> "Float32[Tensor, 'N values']":
    """Cut into patches in the processor's order, each flattened colour, frame, row, column."""
    count, _, height, width = pixels.shape
    split = pixels.reshape(count, 3, height // _MERGED, 2, 14, width // _MERGED, 2, 14)
    # n colour R r y C c x -> n R C r c colour y x
    cells = split.permute(0, 2, 5, 3, 6, 1, 4, 7)
    frames = cells[..., None, :, :].expand(*cells.shape[:6], _FRAMES, 14, 14)
    return frames.reshape(count * (height // 14) * (width // 14), -1)
