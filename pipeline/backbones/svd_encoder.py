"""Stable Video Diffusion, loaded: see `svd.py`.

Letters: n views, B videos, F frames of a video, z latent channels, h w cells, C channels.
"""

from collections.abc import Iterator
from math import ceil, floor
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from jaxtyping import Float32
from torch import Tensor

from vega3d.pipeline.backbones.clip_tower import ClipTower
from vega3d.pipeline.backbones.encoder import Views
from vega3d.pipeline.backbones.generators import GeneratorConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import ModelFacts, tap_name
from vega3d.pipeline.backbones.svd_noise import preconditioned, sigma_of
from vega3d.pipeline.backbones.unets import ImageVae, Unet

FPS, MOTION_BUCKET, NOISE_AUGMENTATION = 7, 127, 0.0


class SvdEncoder:
    """UNet, VAE and CLIP's tower."""

    def __init__(
        self,
        config: GeneratorConfig,
        folder: Path,
        facts: ModelFacts,
        numerics: Numerics,
        *,
        joint: bool,
    ) -> None:
        """Load them; `joint` makes one video of all views."""
        self.joint = joint
        self._config = config
        self._unet = Unet(UNetSpatioTemporalConditionModel, folder, facts, numerics, config.dtype)
        self._vae = ImageVae(folder, numerics.device, AutoencoderKLTemporalDecoder)
        self._clip = ClipTower(folder, "image_encoder", numerics.device, projected=True)

    def tokens(self, views: Views) -> Iterator[tuple[str, Float32[Tensor, "n h w C"]]]:
        """Yield every tap of every noise level."""
        begins = views.select([0]) if self.joint else views
        batches = list(views.batches(views.batch_size))
        latents = torch.cat([self._vae.latents(batch.pixels()) for batch in batches])
        condition = self._vae.mean(begins.pixels())  # not scaled, as the model was trained
        image = self._clip.vector(_small(begins, self._clip.side))
        frames = len(views) if self.joint else 1
        beside = condition[:, None].expand(-1, frames, -1, -1, -1)  # B F z h w
        told = torch.tensor([[FPS - 1, MOTION_BUCKET, NOISE_AUGMENTATION]])
        for sample in range(self._config.noise_samples):
            for timestep in self._config.timesteps:
                eps = views.noise(
                    self._config.noise_seed, timestep, sample, tuple(latents.shape[1:])
                )
                sigma = sigma_of(timestep)
                c_in, c_noise = preconditioned(sigma)
                noised = (c_in * (latents + sigma * eps)).reshape(-1, frames, *latents.shape[1:])
                video = torch.cat([noised, beside], dim=2).to(self._unet.dtype)
                found = self._unet.run(
                    sample=video,
                    timestep=torch.full((len(video),), c_noise, device=video.device),
                    encoder_hidden_states=image[:, None].to(video.dtype),
                    added_time_ids=told.expand(len(video), -1).to(video),
                )
                for block, cells in found:
                    yield tap_name(timestep, block, sample), cells


def _small(views: Views, side: int) -> Float32[Tensor, "n 3 side side"]:
    """Return what is seen of the views, squashed to CLIP's square as the pipeline does it.

    In [0, 1]. What a crop hides is no part of it.
    """
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as svd

    top, left, bottom, right = views.placement.source
    seen = views.rgb[:, ceil(top) : floor(bottom), ceil(left) : floor(right)]
    pixels = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    squashed: Tensor = svd._resize_with_antialiasing(pixels, (side, side))
    return (squashed + 1) / 2
