"""An encoder from outside the tree: mean and spread of colour in each patch, numpy alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from vega3d.pipeline.backbones.encoder import Views
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import (
    Canvas,
    Configs,
    Fit,
    ModelFacts,
    Prompt,
    check_choices,
    check_resolution,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchesConfig(BackboneConfig):
    """Settings of the patch statistics."""

    name: ClassVar[str] = "toy-patches"

    patch_px: int = 8
    """Side of a patch, px."""

    resolution: tuple[int, int] | Literal["auto"] = (64, 96)
    """Rows and columns of the input, px, or `auto`."""

    fit: Fit = "pad"
    """How an image of another aspect gets there."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        check_resolution(self.resolution, words=("auto",), multiple=self.patch_px)

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know."""
        return ModelFacts(
            channels=6,
            num_blocks=1,
            blocks=(0,),
            taps=("patches",),
            token_px=self.patch_px,
            auto_tokens=96,
            parameters=0,
            configs=configs,
        )

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count two sums over all pixels."""
        return 4.0 * 3 * canvas[0] * canvas[1]

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Patches":
        """Return the encoder."""
        return Patches(self.patch_px)


class Patches:
    """Mean and spread of colour in each patch."""

    joint = False

    def __init__(self, patch_px: int) -> None:
        """Take note of the patch."""
        self._patch_px = patch_px

    def tokens(self, views: Views) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the one tap."""
        placed = views.placed().astype(np.float32) / 255
        count, rows, cols, _ = placed.shape
        side = self._patch_px
        cut = placed.reshape(count, rows // side, side, cols // side, side, 3)
        yield "patches", np.concatenate([cut.mean(axis=(2, 4)), cut.std(axis=(2, 4))], axis=-1)
