"""What every backbone offers."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from vega3d.pipeline.backbones.grid import TokenMap


@runtime_checkable
class Backbone(Protocol):
    """A frozen encoder of views; one serves one thread."""

    taps: tuple[str, ...]
    """Names of what `encode` returns, in order: `k300_b20` for Wan, `b25` for SigLIP."""

    channels: int
    """Width C of every tap."""

    def canvas(self, image_height: int, image_width: int) -> tuple[int, int]:
        """Return rows and columns of the input that an image of that size is brought to, px."""
        ...

    def token_map(self, image_height: int, image_width: int) -> TokenMap:
        """Say where the tokens of an image of that size look."""
        ...

    def encode(
        self,
        rgb: UInt8[np.ndarray, "V H W 3"],
        *,
        scene_id: str,
        view_ids: Sequence[str],
        noise: Float32[Tensor, "V z 1 h_lat w_lat"] | None = None,
    ) -> dict[str, Float32[Tensor, "V h w C"]]:
        """Return each tap's features on the backbone's own token grid, float32 on the CPU.

        Args:
            rgb: Views of one size.
            scene_id: Enters the noise's key.
            view_ids: One a view, all different; they enter the noise's key.
            noise: Replaces the seeded draw, to compare with other implementations; Wan only.
        """
        ...

    def pool(
        self,
        features: Float32[Tensor, "V h w C"],
        image_height: int,
        image_width: int,
        grid: tuple[int, int],
    ) -> tuple[Float32[np.ndarray, "V gh gw C"], Float32[np.ndarray, "gh gw"]]:
        """Return features on the common grid, NaN where no token looks, and cells' coverage."""
        ...

    def cells(
        self, image_height: int, image_width: int, grid: tuple[int, int]
    ) -> tuple[Float64[np.ndarray, "gh 2"], Float64[np.ndarray, "gw 2"]]:
        """Return the image rows and columns that each common cell looks at, px."""
        ...


def check_views(rgb: np.ndarray, view_ids: Sequence[str]) -> None:
    """Check that views are 8-bit RGB of one size, each with an id of its own."""
    if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[3] != 3 or 0 in rgb.shape:
        raise ValueError(
            f"views must be uint8 [V, H, W, 3] of one size, got {rgb.dtype} {list(rgb.shape)}; "
            f"convert to 8-bit RGB, 0 to 255"
        )
    if len(view_ids) != len(rgb) or len(set(view_ids)) != len(view_ids):
        raise ValueError(
            f"view_ids must name each of the {len(rgb)} views once (equal ids would share noise), "
            f"got {len(view_ids)} ids, {len(set(view_ids))} of them different"
        )


def check_noise(noise: Tensor, shape: tuple[int, ...], noise_samples: int) -> None:
    """Check noise that is given instead of drawn."""
    if tuple(noise.shape) != shape:
        raise ValueError(
            f"noise must be [V, z, 1, H / 8, W / 8] = {list(shape)}, got {list(noise.shape)}"
        )
    if noise_samples != 1:
        raise ValueError(f"given noise is one sample, the backbone has {noise_samples}")
