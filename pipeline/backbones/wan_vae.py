"""Wan's VAE alone: the latents that its generators start from, normalised, without noise.

Each view is encoded as a video of one frame; the mean of the posterior is kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from vega3d.pipeline.backbones.checkpoints import check_class
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import (
    Canvas,
    Configs,
    Fit,
    ModelFacts,
    Prompt,
    check_choices,
    check_resolution,
)
from vega3d.pipeline.backbones.wan_family import VAE_2_1, VAE_2_2
from vega3d.pipeline.backbones.wan_flops import vae_flops
from vega3d.pipeline.backbones.wan_parameters import vae_parameters

if TYPE_CHECKING:
    from jaxtyping import Float32
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Encoder, Views

TAP = "latent"


@dataclass(frozen=True, kw_only=True, slots=True)
class WanVaeConfig(BackboneConfig):
    """Settings of Wan's VAE alone."""

    name: ClassVar[str] = "wan-vae"
    classes: ClassVar[str] = "AutoencoderKLWan"
    licence: ClassVar[str] = "Apache-2.0"
    parts: ClassVar[tuple[str, ...]] = ("vae",)
    published: ClassVar[Mapping[str, Configs]] = {
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {"vae": VAE_2_1},
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers": {"vae": VAE_2_2},
    }

    model: str = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    resolution: tuple[int, int] | Literal["auto"] = (480, 640)
    """Size of the input, px, rows first in Python; `auto` keeps each image's aspect at about the
    latents of 832x480."""

    fit: Fit = "pad"
    """How an image of another aspect gets there: pad (all of it is seen), crop, stretch."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        check_resolution(self.resolution, words=("auto",), multiple=16)

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the VAE's config.json."""
        vae = check_class(configs, "vae", "AutoencoderKLWan")
        side = int(vae.get("scale_factor_spatial", 8))
        return ModelFacts(
            channels=int(vae["z_dim"]),
            num_blocks=1,
            blocks=(0,),
            taps=(TAP,),
            token_px=side,
            auto_tokens=480 * 832 // side**2,
            parameters=vae_parameters(vae),
            configs=configs,
        )

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count the encoder once."""
        patch = int(facts.configs["vae"].get("patch_size") or 1)
        width = int(facts.configs["vae"]["base_dim"])
        taps = 1 if patch == 1 else 3
        return float(vae_flops(canvas[0] // patch, canvas[1] // patch, width, taps))

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the encoder."""
        from vega3d.pipeline.backbones.wan_networks import WanVae

        rewritten = facts.configs["vae"].get("patch_size") is None
        return WanLatents(
            WanVae(folder / "vae", numerics.device, alone=rewritten), rewritten=rewritten
        )


class WanLatents:
    """The VAE's encoder."""

    joint = False

    def __init__(self, vae: object, *, rewritten: bool) -> None:
        """Take a `WanVae`, rewritten for single frames or not."""
        self._vae, self._rewritten = vae, rewritten

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield the latents."""
        from vega3d.pipeline.backbones.wan_generator import frame_latents

        latents = frame_latents(self._vae, views, rewritten=self._rewritten)  # type: ignore[arg-type]
        yield TAP, latents[:, :, 0].permute(0, 2, 3, 1)
