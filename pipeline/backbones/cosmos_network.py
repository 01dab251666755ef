"""Cosmos-Predict2's transformer, read strictly and cut after the last tap.

Letters: n views, z latent channels, h w tokens, C channels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import CosmosTransformer3DModel
from jaxtyping import Float, Float32
from torch import Tensor

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.running import cut_after, run_taps
from vega3d.pipeline.backbones.settings import ModelFacts, Prompt
from vega3d.pipeline.backbones.wan_inputs import check_prompt
from vega3d.pipeline.backbones.weights import load_strictly


class CosmosDit:
    """The transformer with the empty prompt; in bfloat16 as its pipeline runs it, if asked."""

    def __init__(
        self,
        folder: Path,
        facts: ModelFacts,
        numerics: Numerics,
        dtype: str,
        prompt: Prompt,
        text_rows: int,
    ) -> None:
        """Load it, and pad the prompt with zero rows."""
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        place = folder / "transformer"
        self.model: Any = load_strictly(CosmosTransformer3DModel, place, self.dtype)
        cut_after(self.model, "transformer_blocks", max(facts.blocks))
        del self.model.norm_out, self.model.proj_out
        # The class resizes the padding mask with torchvision; a mask of zeros is one at any size,
        # so the channel is added here and the class is told that it has nothing to add.
        self._masked = bool(self.model.config.concat_padding_mask)
        self.model.register_to_config(concat_padding_mask=False)
        blocks = self.model.transformer_blocks
        self.following = {block: blocks[block + 1] for block in facts.blocks}
        self.model.to(numerics.device)
        self._device = numerics.device
        rows = prompt["prompt_embeds"]
        check_prompt(rows, int(self.model.config.text_embed_dim))
        padded = torch.zeros(1, text_rows, rows.shape[1])
        padded[0, : len(rows)] = torch.from_numpy(rows)
        self._rows = padded.to(numerics.device, self.dtype)

    def run(
        self, latents: Float[Tensor, "n z h2 w2"], timestep: int
    ) -> Iterator[tuple[int, Float32[Tensor, "n h w C"]]]:
        """Yield the tokens after each tapped block."""
        num, rows, cols = len(latents), latents.shape[2] // 2, latents.shape[3] // 2
        video = latents.unsqueeze(2)
        if self._masked:
            video = torch.cat([video, torch.zeros_like(video[:, :1])], dim=1)

        def forward() -> object:
            return self.model(
                hidden_states=video.to(self.dtype),
                timestep=torch.full((num,), timestep / 1000, device=self._device).to(self.dtype),
                encoder_hidden_states=self._rows.expand(num, -1, -1),
            )

        for block, tokens in run_taps(forward, self.following):
            yield block, tokens.float().reshape(num, rows, cols, -1)
