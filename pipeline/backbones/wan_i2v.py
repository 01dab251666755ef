"""Wan image-to-video: a view, and the image that its video begins with.

Context `first` makes a video of two latents of each view: the scene's first view, which is the
condition, and the view, of which the model is told nothing; the tokens kept are the view's. Context
`frame` makes a video of the view alone, which then is its own condition: the model sees it clean.
Wan2.1's model reads the condition also through CLIP.

Source: diffusers, pipeline_wan_i2v.py (prepare_latents, encode_image): the mask's four channels,
then the condition's latent, stand beside the noised latent; frames without a condition are 0 (mid
grey) before the VAE, which here encodes each alone.
Letters: n views, z latent channels, T latents of a view's own video.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vega3d.pipeline.backbones.clip_images import (
    CLIP_VIT_H,
    clip_flops,
    clip_parameters,
)
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import Canvas, Configs, ModelFacts, Prompt
from vega3d.pipeline.backbones.wan_family import DIT_14B, VAE_2_1, WanFamilyConfig
from vega3d.pipeline.backbones.wan_parameters import image_parameters
from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.encoder import Encoder, Views
    from vega3d.pipeline.backbones.wan_generator import Given

MASK_CHANNELS = 4
"""A latent holds four frames, one channel each; a first frame counts for all four."""

_I2V_14B = {**DIT_14B, "in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
"""Source: Wan-Video/Wan2.1, wan/configs/wan_i2v_14B.py, wan/modules/model.py (model_type i2v)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WanI2vConfig(WanFamilyConfig):
    """Settings of Wan2.1 image-to-video."""

    name: ClassVar[str] = "wan2.1-i2v"
    takes: ClassVar[frozenset[str]] = frozenset()  # CLIP looks at the pixels too
    classes: ClassVar[str] = "WanTransformer3DModel, AutoencoderKLWan, CLIPVisionModel"
    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "image_encoder")
    published: ClassVar[Mapping[str, Configs]] = {
        f"Wan-AI/Wan2.1-I2V-14B-{size}-Diffusers": {
            "transformer": _I2V_14B,
            "vae": VAE_2_1,
            "image_encoder": CLIP_VIT_H,
        }
        for size in ("480P", "720P")
    }

    model: str = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (20,)
    """Blocks whose OUTPUT is kept, from 0; negative counts from the end (-1 is the last)."""

    context: Literal["first", "frame"] = "first"
    """What a view is seen with: the scene's first view as the condition, or itself."""

    def own_channels(self, dit: Mapping[str, Any]) -> int:
        """Return how many of the transformer's input channels are the noised latent's."""
        channels, odd = divmod(int(dit["in_channels"]) - MASK_CHANNELS, 2)
        if odd or channels < 1 or not dit.get("image_dim"):
            raise CheckpointError(
                f"transformer: must read an image's latent and CLIP's tokens, found in_channels "
                f"{dit['in_channels']}, image_dim {dit.get('image_dim')}"
            )
        return channels

    def parameters(self, configs: Configs, last: int) -> int:
        """Count the parameters of all that runs up to a block, CLIP's among them."""
        base = WanFamilyConfig.parameters(self, configs, last)
        clip = clip_parameters(configs["image_encoder"], projected=False)
        return base + image_parameters(configs["transformer"]) + clip

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count as Wan's relatives do, and CLIP."""
        base = WanFamilyConfig.flops_per_view(self, facts, canvas, num_views)
        return base + clip_flops(facts.configs["image_encoder"])

    def num_latents(self) -> int:
        """Return the latents of one view's own video."""
        return 2 if self.context == "first" else 1

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the transformer, the encoder of its VAE, and CLIP's tower."""
        from diffusers import WanTransformer3DModel

        from vega3d.pipeline.backbones.clip_tower import ClipTower
        from vega3d.pipeline.backbones.wan_generator import WanDit, WanGenerator
        from vega3d.pipeline.backbones.wan_networks import WanVae

        vae = WanVae(folder / "vae", numerics.device, alone=True)
        clip = ClipTower(folder, "image_encoder", numerics.device, projected=False)
        dit = WanDit(
            WanTransformer3DModel,
            folder / "transformer",
            frozenset(facts.blocks),
            prompt["prompt_embeds"],
            self.dtype,
            numerics.device,
        )
        joint = self.context == "first"

        def condition(views: "Views", first: "Views") -> "Given":
            return image_given(vae, clip, views, first if joint else None)

        return WanGenerator(self, facts, numerics, vae, lambda _: dit, condition, joint=joint)


def image_given(
    vae: Any,  # noqa: ANN401 - WanVae, whose module imports torch
    clip: Any,  # noqa: ANN401 - ClipTower, likewise, or None where the model reads none
    views: "Views",
    first: "Views | None",
) -> "Given":
    """Return latents, the condition's channels and CLIP's tokens of it.

    Args:
        vae: Encodes both.
        clip: Looks at the condition; Wan2.2's models do without.
        views: The views.
        first: The condition of all; None where each is its own.
    """
    import torch

    from vega3d.pipeline.backbones.wan_generator import Given, frame_latents

    own = frame_latents(vae, views)
    told = torch.ones_like(own[:, :MASK_CHANNELS])
    if first is None:
        arguments = {} if clip is None else {_IMAGE: clip.tokens(views)}
        return Given(latents=own, channels=torch.cat([told, own], dim=1), arguments=arguments)
    begin = frame_latents(vae, first).expand_as(own)
    grey = torch.zeros(1, 3, *views.canvas, device=own.device)
    nothing = vae.frame_latents(grey).expand_as(own)
    channels = torch.cat(
        [torch.cat([told, begin], dim=1), torch.cat([torch.zeros_like(told), nothing], dim=1)],
        dim=2,
    )
    arguments = {} if clip is None else {_IMAGE: clip.tokens(first).expand(len(own), -1, -1)}
    return Given(latents=torch.cat([begin, own], dim=2), channels=channels, arguments=arguments)


_IMAGE = "encoder_hidden_states_image"
