"""FLUX's transformer, read strictly and cut after the last tap.

Letters: n views, z latent channels, h w tokens, C channels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.running import End, cut_after, run_taps
from vega3d.pipeline.backbones.settings import ModelFacts, Prompt
from vega3d.pipeline.backbones.weights import load_strictly

GUIDANCE = 3.5
"""What a guidance-distilled model is told; the pipeline's own. FLUX.1-schnell is told nothing."""


class FluxDit:
    """The transformer with the empty prompt; in bfloat16 as its pipeline runs it, if asked."""

    def __init__(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, dtype: str, prompt: Prompt
    ) -> None:
        """Load it."""
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        place = folder / "transformer"
        self.model: Any = load_strictly(FluxTransformer2DModel, place, self.dtype)
        double, last = len(self.model.transformer_blocks), max(facts.blocks)
        del self.model.norm_out, self.model.proj_out
        if last < double:
            cut_after(self.model, "transformer_blocks", last)
            self.model.single_transformer_blocks = nn.ModuleList([End()])
        else:
            cut_after(self.model, "single_transformer_blocks", last - double)
        blocks = [*self.model.transformer_blocks, *self.model.single_transformer_blocks]
        self.following = {block: blocks[block + 1] for block in facts.blocks}
        self.model.to(numerics.device)
        self._device = numerics.device
        self._guided = bool(self.model.config.guidance_embeds)
        self._rows, self._pooled = (
            torch.from_numpy(prompt[name])[None].to(numerics.device, self.dtype)
            for name in ("prompt_embeds", "pooled_prompt_embeds")
        )

    def run(
        self, latents: Float[Tensor, "n z h2 w2"], timestep: int
    ) -> Iterator[tuple[int, Float32[Tensor, "n h w C"]]]:
        """Yield the image's tokens after each tapped block."""
        num, rows, cols = len(latents), latents.shape[2] // 2, latents.shape[3] // 2
        level = torch.full((num,), timestep / 1000, device=self._device)
        guidance = torch.full((num,), GUIDANCE, device=self._device) if self._guided else None

        def forward() -> object:
            return self.model(
                hidden_states=packed(latents).to(self.dtype),
                timestep=level,
                guidance=guidance,
                encoder_hidden_states=self._rows.expand(num, -1, -1),
                pooled_projections=self._pooled.expand(num, -1),
                txt_ids=torch.zeros(self._rows.shape[1], 3, device=self._device),
                img_ids=_places(rows, cols).to(self._device),
            )

        for block, tokens in run_taps(forward, self.following):
            yield block, tokens.float().reshape(num, rows, cols, -1)


def packed(latents: Float[Tensor, "n z h2 w2"]) -> Float[Tensor, "n N 4z"]:
    """Put 2 x 2 cells into one token, channel by channel, row by row."""
    num, z, rows, cols = latents.shape
    cut = latents.reshape(num, z, rows // 2, 2, cols // 2, 2)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(num, rows * cols // 4, 4 * z)


def _places(rows: int, cols: int) -> Float32[Tensor, "N 3"]:
    """Return 0, row and column of each token."""
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, col], dim=-1).reshape(-1, 3).float()
