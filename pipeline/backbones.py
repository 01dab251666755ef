"""What every backbone offers, and the one place that knows them all: `load_backbone`."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float32, UInt8
from torch import Tensor

from vega3d.pipeline.grid import TokenMap


class Backbone(Protocol):
    """A frozen encoder of views."""

    taps: tuple[str, ...]
    """Names of what `encode` returns, in order: `k300_b20` for Wan, `b25` for SigLIP."""

    channels: int
    """Width C of every tap."""

    def token_map(self, image_height: int, image_width: int) -> TokenMap:
        """Say where the tokens of an image of that size look."""
        ...

    def encode(
        self,
        rgb: UInt8[np.ndarray, "V H W 3"],
        *,
        scene_id: str,
        view_ids: Sequence[str],
        noise: Float32[Tensor, "V 16 1 h_lat w_lat"] | None = None,
    ) -> dict[str, Float32[Tensor, "V h w C"]]:
        """Return each tap's features on the backbone's own token grid, on the CPU."""
        ...
