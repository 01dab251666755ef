"""CogVideoX's transformer and VAE, read strictly and cut to what a tap needs.

Letters: n views, z latent channels, h w tokens, C channels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from jaxtyping import Float, Float32
from torch import Tensor

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.running import cut_after, run_taps
from vega3d.pipeline.backbones.settings import ModelFacts, Prompt
from vega3d.pipeline.backbones.weights import load_strictly


class CogVideoXVae:
    """The VAE's encoder, in float32; its decoder is dropped."""

    def __init__(self, folder: Path, device: str) -> None:
        """Load it."""
        self.model: Any = load_strictly(AutoencoderKLCogVideoX, folder / "vae", torch.float32)
        self.model.decoder = None
        self.model.to(device)

    def latents(self, pixels: Float32[Tensor, "n 3 H W"]) -> Float32[Tensor, "n z h2 w2"]:
        """Return the scaled mean of views as videos of one frame."""
        mean: Tensor = self.model.encode(pixels.unsqueeze(2)).latent_dist.mode()[:, :, 0]
        return mean * float(self.model.config.scaling_factor)


class CogVideoXDit:
    """The transformer with the empty prompt; in bfloat16 as its pipeline runs it, if asked."""

    def __init__(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, dtype: str, prompt: Prompt
    ) -> None:
        """Load it; the prompt has as many rows as the model was trained with."""
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.model: Any = load_strictly(
            CogVideoXTransformer3DModel, folder / "transformer", self.dtype
        )
        cut_after(self.model, "transformer_blocks", max(facts.blocks))
        del self.model.norm_final, self.model.norm_out, self.model.proj_out
        blocks = self.model.transformer_blocks
        self.following = {block: blocks[block + 1] for block in facts.blocks}
        self.model.to(numerics.device)
        self._device = numerics.device
        rows = torch.from_numpy(prompt["prompt_embeds"])
        width = int(self.model.config.text_embed_dim)
        length = int(self.model.config.max_text_seq_length)
        if tuple(rows.shape) != (length, width):
            raise ValueError(
                f"prompt_embeds must be {length} rows of {width} numbers for this model, "
                f"got {tuple(rows.shape)}"
            )
        self._rows = rows[None].to(numerics.device, self.dtype)

    def run(
        self, latents: Float[Tensor, "n z h2 w2"], timestep: int
    ) -> Iterator[tuple[int, Float32[Tensor, "n h w C"]]]:
        """Yield the image's tokens after each tapped block."""
        num, rows, cols = len(latents), latents.shape[2] // 2, latents.shape[3] // 2

        def forward() -> object:
            return self.model(
                hidden_states=latents[:, None].to(self.dtype),
                encoder_hidden_states=self._rows.expand(num, -1, -1),
                timestep=torch.full((num,), timestep, device=self._device),
                image_rotary_emb=self._rotary(rows, cols),
            )

        for block, tokens in run_taps(forward, self.following):
            yield block, tokens.float().reshape(num, rows, cols, -1)

    def _rotary(self, rows: int, cols: int) -> tuple[Tensor, Tensor] | None:
        """Return the rotary table of one frame, stretched over the size the model was trained at.

        Source: diffusers, pipeline_cogvideox.py, _prepare_rotary_positional_embeddings.
        """
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        config = self.model.config
        if not config.use_rotary_positional_embeddings:
            return None
        base = config.sample_width // config.patch_size, config.sample_height // config.patch_size
        found: tuple[Tensor, Tensor] = get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=get_resize_crop_region_for_grid((rows, cols), *base),
            grid_size=(rows, cols),
            temporal_size=1,
            device=torch.device(self._device),
        )
        return found
