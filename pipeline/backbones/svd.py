"""Stable Video Diffusion's UNet: an image-to-video generator on EDM's noise scale.

Noise levels are given as k = 1000 s for the share s of noise in a flow-matching model's input, so
that one k means one ratio of noise to image in every generator: here sigma = s / (1 - s), kept
within the model's own 0.002 to 700. The UNet is given c_in (x0 + sigma eps) and c_noise, with
c_in = 1 / sqrt(sigma^2 + 1) and c_noise = ln(sigma) / 4. (The released VEGA-3D compares its
timestep 250 with c_noise, whose largest value is 1.64, and gets sigma 700.)

Context `frame` makes a video of one frame of each view, which begins with itself; `clip` makes one
video of all views, which begins with the first. The image that a video begins with is given to CLIP
and, without added noise, beside the noised latents; the UNet is told so (noise_aug_strength 0), 7
frames a second and motion bucket 127. A block is a stage, as in `sd.py`.

Sources: diffusers, pipeline_stable_video_diffusion.py, scheduling_euler_discrete.py (continuous
timesteps, v_prediction); Karras et al., arXiv 2206.00364, Table 1.
Letters: n views, F frames of a video, z latent channels, h w cells, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from vega3d.pipeline.backbones.checkpoints import check_class
from vega3d.pipeline.backbones.clip_images import CLIP_VIT_H, clip_flops, clip_parameters
from vega3d.pipeline.backbones.generators import GeneratorConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.sd import VAE_SD, check_stages, coarse_canvas
from vega3d.pipeline.backbones.settings import (
    Canvas,
    Configs,
    ModelFacts,
    Prompt,
    resolve_blocks,
)
from vega3d.pipeline.backbones.unet_sizes import (
    UnetRun,
    encoder_tally,
    num_stages,
    stage_channels,
    stage_px,
    unet_tally,
)

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.encoder import Encoder

_VAE = {**VAE_SD, "_class_name": "AutoencoderKLTemporalDecoder"}
_UNET = {
    "_class_name": "UNetSpatioTemporalConditionModel",
    "in_channels": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "num_attention_heads": (5, 10, 20, 20),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "down_block_types": (*("CrossAttnDownBlockSpatioTemporal",) * 3, "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", *("CrossAttnUpBlockSpatioTemporal",) * 3),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SvdConfig(GeneratorConfig):
    """Settings of Stable Video Diffusion."""

    name: ClassVar[str] = "svd"
    takes: ClassVar[frozenset[str]] = frozenset()  # CLIP looks at the pixels too
    classes: ClassVar[str] = (
        "UNetSpatioTemporalConditionModel, AutoencoderKLTemporalDecoder, "
        "CLIPVisionModelWithProjection"
    )
    licence: ClassVar[str] = "Stability AI Community"
    parts: ClassVar[tuple[str, ...]] = ("unet", "vae", "image_encoder")
    multiple: ClassVar[int] = 64
    published: ClassVar[Mapping[str, Configs]] = {
        f"stabilityai/stable-video-diffusion-img2vid{kind}": {
            "unet": {**_UNET, "num_frames": frames},
            "vae": _VAE,
            "image_encoder": CLIP_VIT_H,
        }
        for kind, frames in (("", 14), ("-xt", 25))
    }

    model: str = "stabilityai/stable-video-diffusion-img2vid"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (1,)
    """Stages kept, from 0: the end of the way down, the middle's output, the blocks of the way up;
    negative counts from the end. Those of one store must be of one size."""

    timesteps: tuple[int, ...] = (300,)
    """Noise levels k in 0..1000: sigma = k / (1000 - k), the ratio of noise to image."""

    resolution: tuple[int, int] | Literal["auto"] = (576, 768)
    """Size of the input, px, rows first in Python; `auto` keeps each image's aspect at about the
    area of 1024x576."""

    context: Literal["frame", "clip"] = "frame"
    """What the generator sees together: each view alone, or all as one video."""

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the parts' config.json."""
        unet = check_class(configs, "unet", "UNetSpatioTemporalConditionModel")
        vae = check_class(configs, "vae", "AutoencoderKLTemporalDecoder")
        blocks = resolve_blocks(self.blocks, num_stages(unet))
        check_stages(unet, blocks)
        side = stage_px(unet, blocks[0])
        clip = clip_parameters(configs["image_encoder"], projected=True)
        encoder = encoder_tally(vae, (0, 0)).parameters
        tally = unet_tally(unet, max(blocks), UnetRun(), temporal=True)
        return ModelFacts(
            channels=stage_channels(unet, blocks[0]),
            num_blocks=num_stages(unet),
            blocks=blocks,
            taps=self.tap_names(blocks),
            token_px=side,
            auto_tokens=576 * 1024 // side**2,
            parameters=tally.parameters + encoder + clip,
            configs=configs,
        )

    def canvas(self, facts: ModelFacts, image_height: int, image_width: int) -> Canvas:
        """Return the input's size; `auto` in multiples of 64, whatever the stage."""
        if isinstance(self.resolution, tuple):
            return self.resolution
        return coarse_canvas(image_height, image_width, 576 * 1024)

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count the UNet up to the last stage, once a timestep and noise sample; VAE and CLIP."""
        frames = num_views if self.context == "clip" else 1
        run = UnetRun(rows=canvas[0] // 8, cols=canvas[1] // 8, frames=frames, text_rows=1)
        unet = unet_tally(facts.configs["unet"], max(facts.blocks), run, temporal=True)
        clip = clip_flops(facts.configs["image_encoder"]) / frames
        vae = encoder_tally(facts.configs["vae"], canvas).flops
        return self.passes * unet.flops + vae + clip

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the UNet up to the last stage, the VAE's encoder and CLIP's tower."""
        from vega3d.pipeline.backbones.svd_encoder import SvdEncoder

        return SvdEncoder(self, folder, facts, numerics, joint=self.context == "clip")
