"""Wan the way that the classes offer it: what `bench` runs beside ours.

One view after the other through the VAE as a video of one frame, all blocks, all 512 rows of the
prompt, a hook on the tap's block.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vega3d.pipeline.backbones.weights import load_strictly

_ROWS = 512


class Naive:
    """diffusers' two models, whole."""

    def __init__(self, folder: Path, tap: int, dtype: str, device: str) -> None:
        """Load them.

        Args:
            folder: Of the checkpoint.
            tap: Block whose output is kept.
            dtype: `bfloat16` casts all of it, as a script would; anything else is float32.
            device: Where it runs.
        """
        from diffusers import AutoencoderKLWan, WanTransformer3DModel

        self.dtype = torch.bfloat16 if dtype in ("bfloat16", "float8") else torch.float32
        self._device = device
        self._vae = self._load(AutoencoderKLWan, folder / "vae")
        self._dit = self._load(WanTransformer3DModel, folder / "transformer")
        self.num_blocks = len(self._dit.blocks)
        self._kept: Tensor | None = None
        self._dit.blocks[tap].register_forward_hook(self._keep)

    def latents(self, pixels: Tensor) -> Tensor:
        """Return normalised latents, float32 [V, 16, 1, h, w], of pixels [V, 3, H, W] in -1..1."""
        config, shape = self._vae.config, (1, -1, 1, 1, 1)
        mean = torch.tensor(config.latents_mean, device=self._device).view(shape)
        std = torch.tensor(config.latents_std, device=self._device).view(shape)
        videos = pixels.to(self._device, self.dtype).unsqueeze(2)
        with torch.inference_mode():
            found = [self._vae.encode(one[None]).latent_dist.mode().float() for one in videos]
        return (torch.cat(found) - mean) / std

    def tap(self, video: Tensor, timestep: int, prompt: np.ndarray) -> Tensor:
        """Return the tap's tokens, float32 [V, tokens, C]."""
        rows = torch.zeros((len(video), _ROWS, prompt.shape[1]))
        rows[:, : len(prompt)] = torch.from_numpy(prompt)
        with torch.inference_mode():
            self._dit(
                hidden_states=video.to(self._device, self.dtype),
                timestep=torch.full((len(video),), timestep, device=self._device),
                encoder_hidden_states=rows.to(self._device, self.dtype),
            )
        assert self._kept is not None  # the hook's block ran
        return self._kept.float()

    def _load(self, cls: Any, place: Path) -> Any:  # noqa: ANN401 - diffusers is untyped here
        return load_strictly(cls, place, self.dtype).to(self._device)

    def _keep(self, _module: object, _given: object, out: Tensor) -> None:
        self._kept = out
