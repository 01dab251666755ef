"""HunyuanVideo's transformer and VAE, read strictly and cut to what a tap needs.

Letters: n views, z latent channels, h w tokens, C channels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.running import End, cut_after, run_taps
from vega3d.pipeline.backbones.settings import ModelFacts, Prompt
from vega3d.pipeline.backbones.weights import load_strictly

GUIDANCE = 6.0
"""What a guidance-distilled model is told; the pipeline's own, which counts it in thousandths."""


class HunyuanVae:
    """The VAE's encoder, in float32; its decoder is dropped."""

    def __init__(self, folder: Path, device: str) -> None:
        """Load it."""
        self.model: Any = load_strictly(AutoencoderKLHunyuanVideo, folder / "vae", torch.float32)
        self.model.decoder = self.model.post_quant_conv = None
        self.model.to(device)

    def latents(self, pixels: Float32[Tensor, "n 3 H W"]) -> Float32[Tensor, "n z h2 w2"]:
        """Return the scaled mean of views as videos of one frame."""
        mean: Tensor = self.model.encode(pixels.unsqueeze(2)).latent_dist.mode()[:, :, 0]
        return mean * float(self.model.config.scaling_factor)


class HunyuanDit:
    """The transformer with the empty prompt; in bfloat16 as its pipeline runs it, if asked.

    Rows of padding are never attended to, so the prompt's real rows are all that it is given.
    """

    def __init__(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, dtype: str, prompt: Prompt
    ) -> None:
        """Load it."""
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        place = folder / "transformer"
        self.model: Any = load_strictly(HunyuanVideoTransformer3DModel, place, self.dtype)
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
        """Yield the picture's tokens after each tapped block."""
        num, rows, cols = len(latents), latents.shape[2] // 2, latents.shape[3] // 2
        guidance = torch.full((num,), 1000 * GUIDANCE, device=self._device)

        def forward() -> object:
            return self.model(
                hidden_states=latents.unsqueeze(2).to(self.dtype),
                timestep=torch.full((num,), float(timestep), device=self._device),
                encoder_hidden_states=self._rows.expand(num, -1, -1),
                encoder_attention_mask=torch.ones(num, self._rows.shape[1], device=self._device),
                pooled_projections=self._pooled.expand(num, -1),
                guidance=guidance if self._guided else None,  # bfloat16 would make 6000 6016
            )

        for block, tokens in run_taps(forward, self.following):
            yield block, tokens.float().reshape(num, rows, cols, -1)
