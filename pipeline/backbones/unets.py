"""Stable Diffusion's UNets and VAE, read strictly and cut to what a stage needs.

Letters: n images, F frames, z latent channels, h w cells, C channels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vega3d.pipeline.backbones.generators import GeneratorConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.running import End, run_taps
from vega3d.pipeline.backbones.settings import ModelFacts, Prompt
from vega3d.pipeline.backbones.weights import load_strictly


class ImageVae:
    """The VAE's encoder, in float32; its decoder is dropped."""

    def __init__(self, folder: Path, device: str, cls: type = AutoencoderKL) -> None:
        """Load it."""
        self.model: Any = load_strictly(cls, folder / "vae", torch.float32)
        self.model.decoder = self.model.post_quant_conv = None
        self.model.to(device)
        config = self.model.config
        self._scale = float(config.scaling_factor)
        self._shift = float(config.get("shift_factor") or 0.0)

    def mean(self, pixels: Float32[Tensor, "n 3 H W"]) -> Float32[Tensor, "n z h w"]:
        """Return the posterior's mean; nothing is sampled."""
        found: Tensor = self.model.encode(pixels).latent_dist.mode()
        return found

    def latents(self, pixels: Float32[Tensor, "n 3 H W"]) -> Float32[Tensor, "n z h w"]:
        """Return the mean as the generator counts it, of pixels in [-1, 1]."""
        return (self.mean(pixels) - self._shift) * self._scale


class Unet:
    """A UNet cut after a stage; see `unet_sizes`."""

    def __init__(
        self,
        cls: type,
        folder: Path,
        facts: ModelFacts,
        numerics: Numerics,
        dtype: str,
    ) -> None:
        """Load it, in bfloat16 as its pipelines run it where that is asked for."""
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.model: Any = load_strictly(cls, folder / "unet", self.dtype)
        following: list[nn.Module] = [self.model.mid_block, *self.model.up_blocks, nn.Identity()]
        last = max(facts.blocks)
        _cut(self.model, last)
        following[last] = self.model.mid_block if last == 0 else self.model.up_blocks[last - 1]
        self.following = {block: following[block] for block in facts.blocks}
        self.model.to(numerics.device)

    def run(self, **arguments: Tensor) -> Iterator[tuple[int, Float32[Tensor, "n h w C"]]]:
        """Yield the output of each kept stage, cell by cell."""
        for block, maps in run_taps(lambda: self.model(**arguments), self.following):
            yield block, maps.float().permute(0, 2, 3, 1)


class ImageUnet:
    """Stable Diffusion's UNet with the empty prompt, and its VAE."""

    def __init__(
        self,
        folder: Path,
        facts: ModelFacts,
        numerics: Numerics,
        config: GeneratorConfig,
        prompt: Prompt,
    ) -> None:
        """Load both."""
        self._unet = Unet(UNet2DConditionModel, folder, facts, numerics, config.dtype)
        self._vae = ImageVae(folder, numerics.device)
        rows = torch.from_numpy(prompt["prompt_embeds"]).float()
        width = int(facts.configs["unet"]["cross_attention_dim"])
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(
                f"prompt_embeds must be rows of {width} numbers for this model, "
                f"got {tuple(rows.shape)}"
            )
        self._text = rows[None].to(numerics.device, self._unet.dtype)
        self.latents = self._vae.latents

    def run(
        self, latents: Float[Tensor, "n z h w"], timestep: int
    ) -> Iterator[tuple[int, Float32[Tensor, "n h w C"]]]:
        """Yield the output of each kept stage."""
        steps = torch.full((len(latents),), timestep, device=latents.device)
        yield from self._unet.run(
            sample=latents.to(self._unet.dtype),
            timestep=steps,
            encoder_hidden_states=self._text.expand(len(latents), -1, -1),
        )


def _cut(unet: Any, last: int) -> None:  # noqa: ANN401 - diffusers is untyped here
    """Drop what comes after a stage; the forward ends there."""
    del unet.conv_norm_out, unet.conv_act, unet.conv_out
    if last == 0:
        unet.mid_block = End()
    kept = list(unet.up_blocks)[: max(0, last - 1)]
    unet.up_blocks = nn.ModuleList([*kept, End()])
