"""LTX-Video's transformer and VAE, read strictly and cut to what a tap needs.

Letters: n views, z latent channels, h w tokens, C channels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
from jaxtyping import Float, Float32
from torch import Tensor

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.running import cut_after, run_taps
from vega3d.pipeline.backbones.settings import ModelFacts, Prompt
from vega3d.pipeline.backbones.weights import load_strictly

FRAME_RATE = 25
"""Source: diffusers, pipeline_ltx.py; of one frame it says nothing."""

_STRIDES = (8 / FRAME_RATE, 32, 32)
"""What positions are counted in: a latent is 8 frames of 32 x 32 px."""


class LtxVae:
    """The VAE's encoder, in float32; its decoder is dropped."""

    def __init__(self, folder: Path, device: str) -> None:
        """Load it."""
        self.model: Any = load_strictly(AutoencoderKLLTXVideo, folder / "vae", torch.float32)
        self.model.decoder = None
        self.model.to(device)

    def latents(self, pixels: Float32[Tensor, "n 3 H W"]) -> Float32[Tensor, "n z h w"]:
        """Return the normalised mean of views as videos of one frame."""
        mean: Tensor = self.model.encode(pixels.unsqueeze(2)).latent_dist.mode()[:, :, 0]
        held = self.model.latents_mean, self.model.latents_std
        middle, spread = (constants.view(1, -1, 1, 1) for constants in held)
        found: Tensor = (mean - middle) * float(self.model.config.scaling_factor) / spread
        return found


class LtxDit:
    """The transformer with the empty prompt; in bfloat16 as its pipeline runs it, if asked."""

    def __init__(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, dtype: str, prompt: Prompt
    ) -> None:
        """Load it."""
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        place = folder / "transformer"
        self.model: Any = load_strictly(LTXVideoTransformer3DModel, place, self.dtype)
        cut_after(self.model, "transformer_blocks", max(facts.blocks))
        del self.model.norm_out, self.model.proj_out, self.model.scale_shift_table
        blocks = self.model.transformer_blocks
        self.following = {block: blocks[block + 1] for block in facts.blocks}
        self.model.to(numerics.device)
        self._device = numerics.device
        rows, width = torch.from_numpy(prompt["prompt_embeds"]), self.model.config.caption_channels
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(
                f"prompt_embeds must be rows of {width} numbers for this model, "
                f"got {tuple(rows.shape)}"
            )
        self._rows = rows[None].to(numerics.device, self.dtype)

    def run(
        self, latents: Float[Tensor, "n z h w"], timestep: int
    ) -> Iterator[tuple[int, Float32[Tensor, "n h w C"]]]:
        """Yield the tokens after each tapped block."""
        num, _, rows, cols = latents.shape

        def forward() -> object:
            return self.model(
                hidden_states=latents.flatten(2).transpose(1, 2).to(self.dtype),
                encoder_hidden_states=self._rows.expand(num, -1, -1),
                timestep=torch.full((num,), float(timestep), device=self._device),
                encoder_attention_mask=None,
                num_frames=1,
                height=rows,
                width=cols,
                rope_interpolation_scale=_STRIDES,
            )

        for block, tokens in run_taps(forward, self.following):
            yield block, tokens.float().reshape(num, rows, cols, -1)
