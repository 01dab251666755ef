"""What Wan's networks must be and are given: prompt rows, and the latents that views share."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

TEXT_ROWS = 512
"""Rows of text that Wan attends to. Source: Wan-Video/Wan2.1, wan/configs/shared_config.py."""


def check_prompt(rows: "Float32[np.ndarray, 'L D']", text_dim: int) -> None:
    """Raise ValueError where the prompt's rows do not fit the model."""
    if rows.ndim != 2 or rows.shape[1] != text_dim or not 1 <= len(rows) <= TEXT_ROWS:
        raise ValueError(
            f"prompt_embeds must be 1 to {TEXT_ROWS} rows of {text_dim} numbers for this model, "
            f"got {rows.shape}"
        )


def latent_views(num_views: int, context: str) -> tuple[list[int], list[int]]:
    """Return the first view that each latent holds, and the latent that each view reads."""
    if context != "clip":
        return list(range(num_views)), list(range(num_views))
    latent_of_view = [-(-view // 4) for view in range(num_views)]
    first_view = [latent_of_view.index(latent) for latent in range(latent_of_view[-1] + 1)]
    return first_view, latent_of_view


def check_kind(dit: Mapping[str, Any], vae: Mapping[str, Any], index: Mapping[str, Any]) -> None:
    """Raise CheckpointError where the configs are those of another kind of Wan."""
    second = index.get("transformer_2")
    if second and second[0]:  # [null, null] where a pipeline could have one and has not
        raise CheckpointError(
            "is a pipeline of two transformers (Wan2.2), each for a part of the noise levels, of "
            "which one alone would be read; give a Wan2.1 text-to-video model"
        )
    if dit.get("image_dim") or dit.get("added_kv_proj_dim"):
        raise CheckpointError(
            "transformer: is an image-to-video model and needs an image; "
            "give a text-to-video one such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
        )
    if tuple(dit["patch_size"]) != (1, 2, 2):
        raise CheckpointError(
            f"transformer: patch_size must be (1, 2, 2), found {dit['patch_size']}"
        )
    if vae["z_dim"] != dit["in_channels"] or vae.get("patch_size") is not None:
        raise CheckpointError(
            f"vae: must be Wan2.1's with the transformer's {dit['in_channels']} latent channels, "
            f"found z_dim {vae['z_dim']}, patch_size {vae.get('patch_size')}"
        )
