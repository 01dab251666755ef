"""What Wan's networks are given: the prompt's rows, and the latents that views share."""

from typing import TYPE_CHECKING

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
