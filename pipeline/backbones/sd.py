"""Stable Diffusion 2.1's UNet, an image generator, and its VAE alone.

A block is a stage of the UNet: 0 the end of the way down (what the middle is given, which the
released VEGA-3D keeps), 1 the middle's output, 2 to 5 the outputs of the blocks of the way up.
The prompt is empty. Letters: n views, z latent channels, h w cells, C channels.

Sources: stabilityai/stable-diffusion-2-1-base, unet/, vae/ and scheduler/ config.json (scaled
linear betas 0.00085 to 0.012 over 1000 steps; 0.18215).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vega3d.pipeline.backbones.checkpoints import check_class
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.generators import GeneratorConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.sd_noise import noise_level
from vega3d.pipeline.backbones.settings import (
    Canvas,
    Configs,
    Fit,
    ModelFacts,
    Prompt,
    check_choices,
    check_resolution,
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
from vega3d.pipeline.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Encoder, Views

TEXT_ROWS = 77
LATENT_PX = 8
MODEL = "Manojb/stable-diffusion-2-1-base"
"""A copy: stabilityai's own repository is gone."""

VAE_SD = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.18215,
}
_UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}


def check_stages(unet: Mapping[str, Any], blocks: tuple[int, ...]) -> None:
    """Raise UsageError where taps of one store would have different grids or widths."""
    shapes = {(stage_px(unet, b), stage_channels(unet, b)) for b in blocks}
    if len(shapes) > 1:
        told = ", ".join(
            f"{b}: {stage_channels(unet, b)} channels of {stage_px(unet, b)} px" for b in blocks
        )
        raise UsageError(
            f"blocks of one store must have one width and one size of cell, got {told}; "
            "extract each into a store of its own"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SdConfig(GeneratorConfig):
    """Settings of Stable Diffusion 2.1."""

    name: ClassVar[str] = "sd2.1"
    classes: ClassVar[str] = "UNet2DConditionModel, AutoencoderKL"
    licence: ClassVar[str] = "CreativeML Open RAIL++-M"
    parts: ClassVar[tuple[str, ...]] = ("unet", "vae")
    multiple: ClassVar[int] = 64
    published: ClassVar[Mapping[str, Configs]] = {MODEL: {"unet": _UNET, "vae": VAE_SD}}

    model: str = MODEL
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (1,)
    """Stages kept, from 0: the end of the way down, the middle's output, the blocks of the way up;
    negative counts from the end. Those of one store must be of one size."""

    timesteps: tuple[int, ...] = (250,)
    """Steps of the training schedule, 0..999; 0 is nearly clean."""

    resolution: tuple[int, int] | Literal["auto"] = (768, 1024)
    """Size of the input, px, rows first in Python; `auto` keeps each image's aspect at about the
    area of 896x896."""

    def __post_init__(self) -> None:
        """Check every field once."""
        GeneratorConfig.__post_init__(self)
        if max(self.timesteps) > 999:
            raise ValueError(f"timesteps must lie in 0..999 for {self.name}, got {self.timesteps}")

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the parts' config.json."""
        unet = check_class(configs, "unet", "UNet2DConditionModel")
        vae = check_class(configs, "vae", "AutoencoderKL")
        blocks = resolve_blocks(self.blocks, num_stages(unet))
        check_stages(unet, blocks)
        side = stage_px(unet, blocks[0])
        tally = unet_tally(unet, max(blocks), UnetRun(), temporal=False)
        return ModelFacts(
            channels=stage_channels(unet, blocks[0]),
            num_blocks=num_stages(unet),
            blocks=blocks,
            taps=self.tap_names(blocks),
            token_px=side,
            auto_tokens=(896 // side) ** 2,
            parameters=tally.parameters + encoder_tally(vae, (0, 0)).parameters,
            configs=configs,
        )

    def canvas(self, facts: ModelFacts, image_height: int, image_width: int) -> Canvas:
        """Return the input's size; `auto` in multiples of 64, whatever the stage."""
        if isinstance(self.resolution, tuple):
            return self.resolution
        return coarse_canvas(image_height, image_width, 896 * 896)

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count the UNet up to the last stage, once a timestep and noise sample, and the VAE."""
        run = UnetRun(rows=canvas[0] // LATENT_PX, cols=canvas[1] // LATENT_PX, text_rows=TEXT_ROWS)
        unet = unet_tally(facts.configs["unet"], max(facts.blocks), run, temporal=False)
        return self.passes * unet.flops + encoder_tally(facts.configs["vae"], canvas).flops

    def prompt(self, given: "np.ndarray | str | Path | None") -> Prompt:
        """Return the text tower's 77 rows of the empty prompt, or the given ones."""
        from vega3d.pipeline.backbones.prompt_clip import clip_prompt
        from vega3d.pipeline.backbones.prompt_given import given_prompt

        if given is None:
            return clip_prompt(self.model, "text_encoder", "tokenizer")
        return given_prompt(given)

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the UNet up to the last stage, and the VAE's encoder."""
        from vega3d.pipeline.backbones.noised import Noised
        from vega3d.pipeline.backbones.unets import ImageUnet

        unet = ImageUnet(folder, facts, numerics, self, prompt)
        return Noised(self, unet.latents, noise_level, unet.run)


def coarse_canvas(image_height: int, image_width: int, area: int, multiple: int = 64) -> Canvas:
    """Return the canvas of about an area whose aspect is nearest the image's, in coarse steps."""
    scale = math.sqrt(area / (image_height * image_width)) / multiple
    rows, cols = max(1, round(image_height * scale)), max(1, round(image_width * scale))
    return multiple * rows, multiple * cols


@dataclass(frozen=True, kw_only=True, slots=True)
class SdVaeConfig(BackboneConfig):
    """Settings of Stable Diffusion's VAE alone."""

    name: ClassVar[str] = "sd-vae"
    classes: ClassVar[str] = "AutoencoderKL"
    licence: ClassVar[str] = "CreativeML Open RAIL++-M"
    parts: ClassVar[tuple[str, ...]] = ("vae",)
    published: ClassVar[Mapping[str, Configs]] = {MODEL: {"vae": VAE_SD}}

    model: str = MODEL
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    resolution: tuple[int, int] | Literal["auto"] = (480, 640)
    """Size of the input, px, rows first in Python; `auto` keeps each image's aspect at about the
    area of 640x480."""

    fit: Fit = "pad"
    """How an image of another aspect gets there: pad (all of it is seen), crop, stretch."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        check_resolution(self.resolution, words=("auto",), multiple=LATENT_PX)

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the VAE's config.json."""
        vae = check_class(configs, "vae", "AutoencoderKL")
        side = 2 ** (len(vae["block_out_channels"]) - 1)
        return ModelFacts(
            channels=int(vae["latent_channels"]),
            num_blocks=1,
            blocks=(0,),
            taps=("latent",),
            token_px=side,
            auto_tokens=480 * 640 // side**2,
            parameters=encoder_tally(vae, (0, 0)).parameters,
            configs=configs,
        )

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count the encoder once."""
        return encoder_tally(facts.configs["vae"], canvas).flops

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the VAE's encoder."""
        from vega3d.pipeline.backbones.unets import ImageVae

        return SdLatents(ImageVae(folder, numerics.device))


class SdLatents:
    """The VAE's encoder."""

    joint = False

    def __init__(self, vae: Any) -> None:  # noqa: ANN401 - ImageVae, whose module imports torch
        """Take it."""
        self._vae = vae

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield the scaled mean."""
        yield "latent", self._vae.latents(views.pixels()).permute(0, 2, 3, 1)
