"""Cosmos-Predict2 text-to-image: NVIDIA's world model on Wan2.1's latents; each view is one frame.

Its pipeline counts noise as EDM does and gives the network x / (1 + sigma) and sigma / (1 + sigma):
flow matching's mix and its share s of noise, with sigma = s / (1 - s). The share is the timestep.
The prompt is empty: T5's real rows, followed by zero rows up to 512, all attended to.

Sources: nvidia-cosmos/cosmos-predict2; diffusers, pipeline_cosmos2_text2image.py,
transformer_cosmos.py, scripts/convert_cosmos_to_diffusers.py (sizes).
Letters: n views, z latent channels, h w tokens, C channels.
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
from vega3d.pipeline.backbones.tally import Tally
from vega3d.pipeline.backbones.unet_sizes import Config
from vega3d.pipeline.backbones.wan_family import VAE_2_1, check_patches
from vega3d.pipeline.backbones.wan_flops import vae_flops
from vega3d.pipeline.backbones.wan_parameters import vae_parameters
from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

    from vega3d.pipeline.backbones.encoder import Encoder

TEXT_ROWS = 512

_DIT = {
    "_class_name": "CosmosTransformer3DModel",
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 128,
    "num_layers": 28,
    "text_embed_dim": 1024,
    "adaln_lora_dim": 256,
    "patch_size": (1, 2, 2),
    "rope_scale": (1.0, 4.0, 4.0),
    "concat_padding_mask": True,
    "extra_pos_embed_type": None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CosmosConfig(DitConfig):
    """Settings of Cosmos-Predict2 text-to-image."""

    name: ClassVar[str] = "cosmos-predict2"
    classes: ClassVar[str] = "CosmosTransformer3DModel, AutoencoderKLWan"
    licence: ClassVar[str] = "NVIDIA Open Model"
    own_px: ClassVar[int] = 480 * 832
    published: ClassVar[Mapping[str, Configs]] = {
        "nvidia/Cosmos-Predict2-2B-Text2Image": {
            "transformer": {**_DIT, "num_attention_heads": 16},
            "vae": VAE_2_1,
        },
        "nvidia/Cosmos-Predict2-14B-Text2Image": {
            "transformer": {**_DIT, "num_attention_heads": 40, "num_layers": 36},
            "vae": VAE_2_1,
        },
    }

    model: str = "nvidia/Cosmos-Predict2-2B-Text2Image"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (14,)
    """Blocks whose OUTPUT is kept, from 0; negative counts from the end (-1 is the last)."""

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the parts' config.json."""
        dit = check_class(configs, "transformer", "CosmosTransformer3DModel")
        vae = check_class(configs, "vae", "AutoencoderKLWan")
        check_patches(dit, vae, int(dit["in_channels"]))
        unread = ("extra_pos_embed_type", "img_context_dim_in", "use_crossattn_projection")
        if held := [name for name in unread if dit.get(name)]:
            raise CheckpointError(
                f"transformer: {held} are set, which no text-to-image model of Cosmos-Predict2 has"
            )
        return self.facts(configs)

    def tally_dit(self, dit: Config, last: int, tokens: int) -> Tally:
        """Count the transformer up to a block on so many tokens of a picture."""
        return dit_tally(dit, last, tokens)

    def tally_vae(self, vae: Config, canvas: Canvas) -> Tally:
        """Count the VAE's encoder on one picture."""
        return Tally(
            parameters=vae_parameters(vae), flops=vae_flops(*canvas, int(vae["base_dim"]), 1)
        )

    def prompt(self, given: "np.ndarray | str | Path | None") -> Prompt:
        """Return T5's real rows of the empty prompt, or the given ones."""
        from vega3d.pipeline.backbones.prompt_given import given_prompt
        from vega3d.pipeline.backbones.prompt_t5 import t5_prompt

        if given is None:
            return t5_prompt(self.model, TEXT_ROWS, kept="alone")
        return given_prompt(given, kept="filled")

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the transformer up to the last tap, and the VAE's encoder."""
        from vega3d.pipeline.backbones.cosmos_network import CosmosDit
        from vega3d.pipeline.backbones.noised import Noised, flow_level
        from vega3d.pipeline.backbones.wan_networks import WanVae

        vae = WanVae(folder / "vae", numerics.device, alone=True)
        dit = CosmosDit(folder, facts, numerics, self.dtype, prompt, TEXT_ROWS)
        return Noised(self, lambda pixels: vae.frame_latents(pixels)[:, :, 0], flow_level, dit.run)


def dit_tally(dit: Config, last: int, tokens: int) -> Tally:
    """Count the transformer up to a block; nothing in it has a bias."""
    tally, head = Tally(), int(dit["attention_head_dim"])
    c, low = int(dit["num_attention_heads"]) * head, int(dit.get("adaln_lora_dim", 256))
    padding = 1 if dit.get("concat_padding_mask", True) else 0

    def linear(inputs: int, outputs: int, positions: int) -> None:
        tally.linear(inputs, outputs, positions, bias=False)

    linear(4 * (int(dit["in_channels"]) + padding), c, tokens)
    linear(c, c, 1)
    linear(c, 3 * c, 1)
    tally.norm(c, bias=False)
    told_rows = TEXT_ROWS if tokens else 0
    for _ in range(last + 1):
        for _ in range(3):
            linear(c, low, 1)
            linear(low, 3 * c, 1)
        for inputs, told in ((c, tokens), (int(dit["text_embed_dim"]), told_rows)):
            linear(c, c, tokens)
            linear(inputs, c, told)
            linear(inputs, c, told)
            linear(c, c, tokens)
            tally.norm(2 * head, bias=False)
            tally.scores(tokens, told, c)
        linear(c, 4 * c, tokens)
        linear(4 * c, c, tokens)
    return tally
