"""CLIP's tower as the condition of an image-to-video generator.

Letters: n images, L tokens, C channels, H W pixels.
"""

import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from vega3d.pipeline.backbones.encoder import Views
from vega3d.pipeline.backbones.grid import place, plan_placement
from vega3d.pipeline.backbones.preprocessing import OPENAI, image_statistics
from vega3d.pipeline.backbones.weights import load_strictly

_POSITIONS = re.compile(r"(vision_model\.)?embeddings\.position_ids")


class ClipTower:
    """The tower in float32."""

    def __init__(self, folder: Path, part: str, device: str, *, projected: bool) -> None:
        """Load it from a part of a pipeline.

        Args:
            folder: Of the pipeline; a processor beside the part gives mean and std.
            part: Name of the tower's folder.
            device: Where it computes.
            projected: Give one projected vector an image; else the tokens before the last layer.
        """
        from transformers import CLIPVisionModel, CLIPVisionModelWithProjection

        cls = CLIPVisionModelWithProjection if projected else CLIPVisionModel
        self.model: Any = load_strictly(cls, folder / part, torch.float32, may_skip=_POSITIONS)
        tower = getattr(self.model, "vision_model", self.model)  # some 5.x keep a wrapper
        if not projected:  # the last layer's output is not read
            tower.encoder.layers = tower.encoder.layers[:-1]
            tower.post_layernorm = torch.nn.Identity()
        self.model.to(device)
        self.side = int(self.model.config.image_size)
        self._device = device
        processors = (folder / "image_processor", folder / "feature_extractor")
        held = next((p for p in processors if p.is_dir()), folder / part)
        self._mean, self._std = (
            torch.tensor(part, dtype=torch.float32).view(1, 3, 1, 1)
            for part in image_statistics(held, OPENAI)
        )

    def normal(self, pixels: Float32[Tensor, "n 3 H W"]) -> Float32[Tensor, "n 3 H W"]:
        """Return (x - mean) / std of values in [0, 1]."""
        return ((pixels - self._mean) / self._std).to(self._device)

    def tokens(self, views: Views) -> Float32[Tensor, "n L C"]:
        """Return all tokens before the last layer; the image's middle square, as CLIP crops it."""
        height, width = views.rgb.shape[1:3]
        square = plan_placement(height, width, (self.side, self.side), "crop")
        pixels = torch.from_numpy(place(views.rgb, square)).permute(0, 3, 1, 2).float() / 255
        found: Tensor = self.model(self.normal(pixels)).last_hidden_state
        return found

    def vector(self, pixels: Float32[Tensor, "n 3 side side"]) -> Float32[Tensor, "n C"]:
        """Return the projected vector of images with values in [0, 1]."""
        found: Tensor = self.model(self.normal(pixels)).image_embeds
        return found
