"""FLUX.1: an image generator by flow matching.

Blocks are counted through: the double-stream blocks first, in which image and text have weights of
their own, then the single-stream ones. The tokens kept are the image's. The prompt is empty.
Letters: n views, z latent channels, h w tokens (2 x 2 latent cells), C channels.

Sources: black-forest-labs/flux, src/flux/model.py and sampling.py; diffusers, pipeline_flux.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vega3d.pipeline.backbones.checkpoints import check_class
from vega3d.pipeline.backbones.generators import DitConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import (
    Canvas,
    Configs,
    ModelFacts,
    Prompt,
)
from vega3d.pipeline.backbones.tally import Tally, count_streams
from vega3d.pipeline.backbones.unet_sizes import Config, encoder_tally

if TYPE_CHECKING:
    import numpy as np

    from vega3d.pipeline.backbones.encoder import Encoder

_DIT = {
    "_class_name": "FluxTransformer2DModel",
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
}
_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FluxConfig(DitConfig):
    """Settings of FLUX.1."""

    name: ClassVar[str] = "flux"
    classes: ClassVar[str] = "FluxTransformer2DModel, AutoencoderKL"
    licence: ClassVar[str] = "Apache-2.0"
    own_px: ClassVar[int] = 480 * 832
    published: ClassVar[Mapping[str, Configs]] = {
        f"black-forest-labs/FLUX.1-{kind}": {
            "transformer": {**_DIT, "guidance_embeds": kind == "dev"},
            "vae": _VAE,
        }
        for kind in ("schnell", "dev")
    }

    model: str = "black-forest-labs/FLUX.1-schnell"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (9, 38)
    """Blocks whose OUTPUT is kept, from 0, the double-stream ones first; negative counts from the
    end."""

    text_rows: int = 256
    """Rows that the empty prompt is padded to: 256 for schnell, 512 for dev."""

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the parts' config.json."""
        check_class(configs, "transformer", "FluxTransformer2DModel")
        check_class(configs, "vae", "AutoencoderKL")
        return self.facts(configs)

    def tally_dit(self, dit: Config, last: int, tokens: int) -> Tally:
        """Count the transformer up to a block on so many tokens of a picture."""
        return dit_tally(dit, last, tokens, self.text_rows if tokens else 0)

    def tally_vae(self, vae: Config, canvas: Canvas) -> Tally:
        """Count the VAE's encoder on one picture."""
        return encoder_tally(vae, canvas)

    def prompt(self, given: "np.ndarray | str | Path | None") -> Prompt:
        """Return the two text encoders' empty prompt, or what a file holds."""
        from vega3d.pipeline.backbones.prompt_given import given_prompt
        from vega3d.pipeline.backbones.prompt_t5 import flux_prompt

        if given is None:
            return flux_prompt(self.model, self.text_rows)
        return given_prompt(given, pooled=True, num_rows=self.text_rows)

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the transformer up to the last tap, and the VAE's encoder."""
        from vega3d.pipeline.backbones.flux_network import FluxDit
        from vega3d.pipeline.backbones.noised import Noised, flow_level
        from vega3d.pipeline.backbones.unets import ImageVae

        vae = ImageVae(folder, numerics.device)
        dit = FluxDit(folder, facts, numerics, self.dtype, prompt)
        return Noised(self, vae.latents, flow_level, dit.run)


def dit_tally(dit: Config, last: int, tokens: int, text: int) -> Tally:
    """Count the transformer up to a block.

    Source: diffusers, transformer_flux.py.
    """
    tally, head = Tally(), int(dit["attention_head_dim"])
    c = int(dit["num_attention_heads"]) * head
    tally.linear(int(dit["in_channels"]), c, tokens)
    tally.linear(int(dit["joint_attention_dim"]), c, text)
    for inputs in (256, *((256,) if dit.get("guidance_embeds") else ())):
        tally.linear(inputs, c, 1)
        tally.linear(c, c, 1)
    tally.linear(int(dit["pooled_projection_dim"]), c, 1)
    tally.linear(c, c, 1)
    count_streams(tally, c, head, int(dit["num_layers"]), last, tokens, text)
    return tally
