"""Loading a backbone by its name."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import (
    DEFAULT_MODELS,
    BackboneName,
    Context,
    ExtractConfig,
    Fit,
    Resolution,
    siglip_config,
)


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
        from vega3d.pipeline.backbones.siglip import SiglipBackbone

        if prompt_embeds is not None:
            raise ValueError("siglip takes no prompt; leave prompt_embeds out")
        return SiglipBackbone(config, numerics)
    from vega3d.pipeline.backbones.wan import WanBackbone

    return WanBackbone(config, numerics, prompt_embeds)
