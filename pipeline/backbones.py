"""What every backbone offers, and the one place that knows them all: `load_backbone`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from vega3d.pipeline.config import (
    DEFAULT_MODELS,
    BackboneName,
    Context,
    ExtractConfig,
    Fit,
    Numerics,
    Resolution,
    siglip_config,
)
from vega3d.pipeline.grid import TokenMap


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


def load_backbone(
    name: BackboneName = "wan2.1-t2v",
    *,
    model: str | None = None,
    blocks: tuple[int, ...] | None = None,
    timesteps: tuple[int, ...] | None = None,
    resolution: Resolution | None = None,
    fit: Fit = "pad",
    context: Context = "frame",
    recipe: Literal["vega3d", "reference"] = "vega3d",
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "cpu",
    prompt_embeds: Float32[np.ndarray, "L D"] | str | Path | None = None,
    noise_seed: int = 0,
    noise_samples: int = 1,
    batch_size: int = 4,
) -> Backbone:
    """Return a backbone; see ExtractConfig for what each setting means.

    `model`, `blocks`, `timesteps` and `resolution` have no default that suits both backbones:
    None takes the named one's own.
    """
    if name not in DEFAULT_MODELS:
        raise ValueError(f"backbone must be one of {sorted(DEFAULT_MODELS)}, got {name!r}")
    base = siglip_config() if name == "siglip" else ExtractConfig()
    config = replace(
        base,
        model=base.model if model is None else model,
        blocks=base.blocks if blocks is None else blocks,
        timesteps=base.timesteps if timesteps is None else timesteps,
        resolution=base.resolution if resolution is None else resolution,
        fit=fit,
        context=context,
        recipe=recipe,
        dtype=dtype,
        noise_seed=noise_seed,
        noise_samples=noise_samples,
    )
    return load_from_config(config, Numerics(device=device, batch_size=batch_size), prompt_embeds)


def load_from_config(
    config: ExtractConfig,
    numerics: Numerics,
    prompt_embeds: Float32[np.ndarray, "L D"] | str | Path | None = None,
) -> Backbone:
    """Return the backbone that a config describes; the global number of threads is the caller's.

    Raises:
        CheckpointError: The model does not hold what the backbone needs.
        ValueError: A block lies outside the model, or the prompt has another width.
    """
    if config.backbone == "siglip":
        from vega3d.pipeline.siglip import SiglipBackbone

        if prompt_embeds is not None:
            raise ValueError("siglip takes no prompt; leave prompt_embeds out")
        return SiglipBackbone(config, numerics)
    from vega3d.pipeline.wan import WanBackbone

    return WanBackbone(config, numerics, prompt_embeds)


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
