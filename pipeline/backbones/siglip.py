"""SigLIP and SigLIP 2 vision encoders: the semantic half.

A tap is the output of an encoder layer, without the final norm; -2 is the penultimate layer, which
LLaVA reads. Layers after the last tap never run. Letters: V views, B views of one pass, h w
tokens, N = h w, C channels.

Source: H-EmbodVis/VEGA-3D @ 9c96924, llava/model/multimodal_encoder/siglip_encoder.py (the last
layer deleted, the rest read without a norm); transformers 5, SiglipVisionModel, Siglip2VisionModel.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor
from transformers import Siglip2VisionModel, SiglipVisionModel

from vega3d.pipeline.backbones.backbone import check_views
from vega3d.pipeline.backbones.checkpoints import (
    SIGLIP_PARTS,
    canvas_size,
    model_facts,
    resolve_model,
    siglip_vision_config,
)
from vega3d.pipeline.backbones.grid import TokenMap, grid_cells, place, plan_placement, pool_to_grid
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.weights import load_strictly
from vega3d.pipeline.config import ExtractConfig

_OTHER_HALF = re.compile(r"text_model\..*|logit_scale|logit_bias")
"""Tensors of a whole-model checkpoint that the vision half does not read."""


class SiglipBackbone:
    """A vision transformer cut after the last tap.

    `native` is the checkpoint's own square. NaFlex checkpoints have none: there it means the
    image's aspect at about as many tokens as the position table has (256), which is also `auto`.
    Any other size interpolates the position table, as the classes themselves do.
    """

    def __init__(self, config: ExtractConfig, numerics: Numerics) -> None:
        """Load the vision half, checked, and drop the layers that no tap needs."""
        folder = resolve_model(config.model, SIGLIP_PARTS)
        kind, _ = siglip_vision_config(folder)
        self._facts = model_facts(config)
        self.taps = self._facts.taps
        self.channels = self._facts.channels
        self._config, self._numerics = config, numerics
        self._naflex = kind.startswith("siglip2")
        cls = Siglip2VisionModel if self._naflex else SiglipVisionModel
        model = load_strictly(cls, folder, torch.float32, may_skip=_OTHER_HALF)
        tower = getattr(model, "vision_model", model)  # some 5.x keep a wrapper
        self._embeddings = tower.embeddings
        self._layers = tower.encoder.layers[: max(self._facts.blocks) + 1]
        if config.dtype == "bfloat16":
            for layer in self._layers:
                layer.self_attn.to(torch.bfloat16)
                layer.mlp.to(torch.bfloat16)
        for module in (self._embeddings, self._layers):
            module.to(numerics.device)

    def canvas(self, image_height: int, image_width: int) -> tuple[int, int]:
        """Return rows and columns of the input that an image of that size is brought to, px."""
        return canvas_size(self._config, self._facts, image_height, image_width)

    def token_map(self, image_height: int, image_width: int) -> TokenMap:
        """Say where the tokens look; 27 tokens of 14 px cover 378 px of a 384 px input."""
        canvas = self.canvas(image_height, image_width)
        placement = plan_placement(image_height, image_width, canvas, self._config.fit)
        return placement.token_map(self._facts.patch_px)

    def encode(
        self,
        rgb: UInt8[np.ndarray, "V H W 3"],
        *,
        scene_id: str,
        view_ids: Sequence[str],
        noise: Float32[Tensor, "V z 1 h_lat w_lat"] | None = None,
    ) -> dict[str, Float32[Tensor, "V h w C"]]:
        """Return each tap's features on the encoder's own token grid, float32 on the CPU."""
        check_views(rgb, view_ids)
        if noise is not None:
            raise ValueError("siglip is no diffusion model: it takes no noise")
        height, width = rgb.shape[1:3]
        canvas = self.canvas(height, width)
        placement = plan_placement(height, width, canvas, self._config.fit)
        step = self._numerics.batch_size
        parts: dict[str, list[Tensor]] = {tap: [] for tap in self.taps}
        with torch.inference_mode():
            for start in range(0, len(rgb), step):
                pixels = _pixels(place(rgb[start : start + step], placement))
                for tap, features in self._run_layers(pixels.to(self._numerics.device)).items():
                    parts[tap].append(features.cpu())
        return {tap: torch.cat(found) for tap, found in parts.items()}

    def pool(
        self,
        features: Float32[Tensor, "V h w C"],
        image_height: int,
        image_width: int,
        grid: tuple[int, int],
    ) -> tuple[Float32[np.ndarray, "V gh gw C"], Float32[np.ndarray, "gh gw"]]:
        """Bring features to the common grid; see `grid.pool_to_grid`."""
        token_map = self.token_map(image_height, image_width)
        return pool_to_grid(features.numpy(), token_map, image_height, image_width, grid)

    def cells(
        self, image_height: int, image_width: int, grid: tuple[int, int]
    ) -> tuple[Float64[np.ndarray, "gh 2"], Float64[np.ndarray, "gw 2"]]:
        """Return the image rows and columns that each common cell looks at, px."""
        token_map = self.token_map(image_height, image_width)
        return grid_cells(token_map, image_height, image_width, grid, "area")

    def _run_layers(
        self, pixels: Float32[Tensor, "B 3 rows cols"]
    ) -> dict[str, Float32[Tensor, "B h w C"]]:
        patch = self._facts.patch_px
        rows, cols = pixels.shape[2] // patch, pixels.shape[3] // patch
        found = {}
        hidden = self._embed(pixels, rows, cols)
        with self._autocast():
            for index, layer in enumerate(self._layers):
                hidden = layer(hidden, attention_mask=None)
                if index in self._facts.blocks:
                    found[f"b{index}"] = hidden.reshape(-1, rows, cols, self.channels).float()
        return {tap: found[tap] for tap in self.taps}

    def _embed(
        self, pixels: Float32[Tensor, "B 3 rows cols"], rows: int, cols: int
    ) -> Float32[Tensor, "B N C"]:
        """Return patch plus position embeddings, in float32."""
        if self._naflex:
            patches = _patches(pixels, self._facts.patch_px)
            shapes = torch.tensor([[rows, cols]] * len(pixels), device=pixels.device)
            embedded: Tensor = self._embeddings(patches, shapes)
            return embedded
        other_size = tuple(pixels.shape[2:]) != (self._facts.native_px,) * 2
        interpolated: Tensor = self._embeddings(pixels, interpolate_pos_encoding=other_size)
        return interpolated

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._config.dtype == "float32":
            return nullcontext()
        return torch.autocast(self._numerics.device, dtype=torch.bfloat16)


def _pixels(placed: UInt8[np.ndarray, "B rows cols 3"]) -> Float32[Tensor, "B 3 rows cols"]:
    """Normalise with mean and std 0.5. Source: the checkpoints' preprocessor_config.json."""
    return torch.from_numpy(placed).permute(0, 3, 1, 2).float() / 127.5 - 1


def _patches(
    pixels: Float32[Tensor, "B 3 rows cols"], patch_px: int
) -> Float32[Tensor, "B N values"]:
    """Cut into patches row by row, each flattened row, column, colour as NaFlex is trained on."""
    rows, cols = pixels.shape[2] // patch_px, pixels.shape[3] // patch_px
    cut = pixels[:, :, : rows * patch_px, : cols * patch_px]
    split = cut.reshape(len(pixels), 3, rows, patch_px, cols, patch_px)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(len(pixels), rows * cols, -1)
