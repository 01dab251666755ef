"""Wan2.1 VACE: the video generator that is shown the frame it is to repaint.

A VACE block adds a hint to the output of the base block of its number, outside of that block; what
is kept here has the hint in it. All of a view is to be repainted (the mask is 1), so its clean
latent comes in as the context's reactive half, and grey as the inactive half: whatever the noise
level, the model sees the clean view. A reference image is a latent of its own before the view's, in
the noised video and in the context alike; the tokens kept are the view's own.

The released code gives the video one latent where the context has two, and keeps the tokens of the
second, which is padding (facts of H-EmbodVis/VEGA-3D @ 9c96924, wan_vace_encoder.py); we do not.

Sources: Wan-Video/Wan2.1, wan/vace.py and wan/modules/vace_model.py; diffusers,
pipeline_wan_vace.py (prepare_video_latents, prepare_masks).
Letters: n views, z latent channels, T latents of a view's own video, C channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import Configs, ModelFacts, Prompt
from vega3d.pipeline.backbones.wan_family import DIT_1_3B, DIT_14B, VAE_2_1, WanFamilyConfig
from vega3d.pipeline.backbones.wan_parameters import hint_parameters

if TYPE_CHECKING:
    from jaxtyping import Float32
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Views
    from vega3d.pipeline.backbones.wan_generator import Given

_KIND = {"_class_name": "WanVACETransformer3DModel", "vace_in_channels": 96}
_VACE_1_3B = {**DIT_1_3B, **_KIND, "vace_layers": list(range(0, 30, 2))}
_VACE_14B = {**DIT_14B, **_KIND, "vace_layers": list(range(0, 40, 5))}
"""Source: Wan-AI/Wan2.1-VACE-1.3B and -14B, config.json (vace_layers)."""

_CELL_PX = 8
MASK_CHANNELS = _CELL_PX**2
"""A mask of 8 x 8 px a latent cell, side by side as channels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WanVaceConfig(WanFamilyConfig):
    """Settings of Wan2.1 VACE."""

    name: ClassVar[str] = "wan2.1-vace"
    takes: ClassVar[frozenset[str]] = frozenset(
        {"latents", "inactive_latents", "reactive_latents", "reference_latents", "mask"}
    )
    classes: ClassVar[str] = "WanVACETransformer3DModel, AutoencoderKLWan"
    dit_class: ClassVar[str] = "WanVACETransformer3DModel"
    published: ClassVar[Mapping[str, Configs]] = {
        "Wan-AI/Wan2.1-VACE-1.3B-diffusers": {"transformer": _VACE_1_3B, "vae": VAE_2_1},
        "Wan-AI/Wan2.1-VACE-14B-diffusers": {"transformer": _VACE_14B, "vae": VAE_2_1},
    }

    model: str = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (20,)
    """Blocks whose OUTPUT is kept, its hint added, from 0; negative counts from the end."""

    reference: Literal["none", "first"] = "none"
    """Image that the view is to look like: none, or the first view of the scene."""

    def parameters(self, configs: Configs, last: int) -> int:
        """Count the parameters of all that runs up to a block, the hints' blocks among them."""
        base = WanFamilyConfig.parameters(self, configs, last)
        return base + hint_parameters(configs["transformer"], last)

    def num_blocks_run(self, facts: ModelFacts) -> int:
        """Count the blocks of a pass, the hints' among them."""
        last = max(facts.blocks)
        layers = [int(layer) for layer in facts.configs["transformer"]["vace_layers"]]
        return last + 1 + len([layer for layer in layers if layer <= last])

    def num_latents(self) -> int:
        """Return the latents of one view's own video."""
        return 1 if self.reference == "none" else 2

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "WanVace":
        """Return the transformer with its hints, and the encoder of its VAE."""
        return WanVace(self, folder, facts, numerics, prompt)


class WanVace:
    """VACE's transformer and VAE.

    What `encode` takes beside pixels, to compare with another implementation (V views, z = 16
    latent channels, h w latent cells; all normalised):

        backbone = load_backbone("wan2.1-vace", model=..., resolution=(8 * h, 8 * w), blocks=...,
                                 timesteps=(k,), prompt_embeds=rows)
        backbone.encode(None, scene_id="", view_ids=["0", ...], latents=..., noise=..., ...)

    `latents` [V, z, 1, h, w]: the clean view. `noise` [V, z, 1 + R, h, w]: standard normal.
    `reference_latents` [V, z, R, h, w]: R images before it, noised like it; without them there are
    none, or the first view's latents with `reference="first"`. `mask`: 1 where it is to be
    repainted, as 64 channels [V, 64, 1, h, w] or as pixels [V, 1, 8 h, 8 w]; all without it.
    `inactive_latents` and `reactive_latents` [V, z, 1, h, w]: the halves of the context; latents of
    grey, and the clean view, without them. What goes into the model is (1 - k / 1000) of the
    references and the view plus k / 1000 of the noise, at timestep k; what comes back are the
    view's own tokens, the hint added.
    """

    def __init__(
        self,
        config: WanVaceConfig,
        folder: Path,
        facts: ModelFacts,
        numerics: Numerics,
        prompt: Prompt,
    ) -> None:
        """Load both."""
        from diffusers import WanVACETransformer3DModel

        from vega3d.pipeline.backbones.wan_generator import WanDit, WanGenerator
        from vega3d.pipeline.backbones.wan_networks import WanVae

        self.joint = config.reference == "first"
        self._vae = WanVae(folder / "vae", numerics.device, alone=True)
        dit = WanDit(
            WanVACETransformer3DModel,
            folder / "transformer",
            frozenset(facts.blocks),
            prompt["prompt_embeds"],
            config.dtype,
            numerics.device,
        )
        self._inner = WanGenerator(
            config, facts, numerics, self._vae, lambda _: dit, self._condition, joint=self.joint
        )

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield every tap of every noise level."""
        yield from self._inner.tokens(views)

    def _condition(self, views: "Views", first: "Views") -> "Given":
        import torch

        from vega3d.pipeline.backbones.wan_generator import frame_latents

        latents = frame_latents(self._vae, views)
        if (inactive := views.taken("inactive_latents")) is None:
            grey = torch.zeros(1, 3, *views.canvas, device=latents.device)  # 0 of [-1, 1]
            inactive = self._vae.frame_latents(grey).expand_as(latents)
        if (reactive := views.taken("reactive_latents")) is None:
            reactive = latents
        reference = views.taken("reference_latents")
        if reference is None and self.joint:
            reference = frame_latents(self._vae, first).expand_as(latents)
        mask = views.taken("mask")
        if mask is not None and mask.ndim == 4:
            mask = mask_cells(mask)
        return vace_given(latents, inactive, reactive, reference, mask)


def vace_given(
    latents: "Float32[Tensor, 'n z 1 h_lat w_lat']",
    inactive: "Float32[Tensor, 'n z 1 h_lat w_lat']",
    reactive: "Float32[Tensor, 'n z 1 h_lat w_lat']",
    reference: "Float32[Tensor, 'n z R h_lat w_lat'] | None",
    mask: "Float32[Tensor, 'n 64 1 h_lat w_lat'] | None",
) -> "Given":
    """Put the context together: inactive, reactive, mask; before it the reference, zeros, zeros."""
    import torch

    from vega3d.pipeline.backbones.wan_generator import Given

    shape = (len(latents), MASK_CHANNELS, *latents.shape[2:])
    if mask is None:
        mask = latents.new_ones(shape)
    context = torch.cat([inactive, reactive, mask], dim=1)
    if reference is not None:
        latents = torch.cat([reference, latents], dim=2)
        count, channels = reference.shape[:2]
        none = reference.new_zeros(count, channels + MASK_CHANNELS, *reference.shape[2:])
        context = torch.cat([torch.cat([reference, none], dim=1), context], dim=2)
    return Given(latents=latents, arguments={"control_hidden_states": context})


def mask_cells(
    mask: "Float32[Tensor, 'n 1 rows cols']",
) -> "Float32[Tensor, 'n 64 1 h_lat w_lat']":
    """Return a mask of pixels as 8 x 8 channels a latent cell, row by row.

    Source: Wan-Video/Wan2.1, wan/vace.py (vace_encode_masks).
    """
    from torch.nn.functional import pixel_unshuffle

    return pixel_unshuffle(mask, _CELL_PX).unsqueeze(2)
