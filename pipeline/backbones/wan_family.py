"""What Wan's relatives tell of themselves; standard library only.

`wan.py` has text-to-video Wan2.1, with settings of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vega3d.pipeline.backbones.checkpoints import check_class
from vega3d.pipeline.backbones.generators import GeneratorConfig
from vega3d.pipeline.backbones.settings import (
    Canvas,
    Configs,
    ModelFacts,
    Prompt,
    resolve_blocks,
)
from vega3d.pipeline.backbones.wan_flops import full_block_flops, vae_flops
from vega3d.pipeline.backbones.wan_inputs import TEXT_ROWS
from vega3d.pipeline.backbones.wan_parameters import dit_parameters, vae_parameters
from vega3d.pipeline.errors import CheckpointError
from vega3d.pipeline.places import cache_dir

if TYPE_CHECKING:
    import numpy as np

VAE_2_1 = {"_class_name": "AutoencoderKLWan", "base_dim": 96, "z_dim": 16}
VAE_2_2 = {
    "_class_name": "AutoencoderKLWan",
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}
DIT = {
    "_class_name": "WanTransformer3DModel",
    "patch_size": (1, 2, 2),
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "attention_head_dim": 128,
}
DIT_1_3B = {**DIT, "num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
DIT_5B = {
    **DIT, "num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336,
    "in_channels": 48, "out_channels": 48,
}  # fmt: skip
DIT_14B = {**DIT, "num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
"""Sources: Wan-Video/Wan2.1, wan/configs/wan_t2v_1_3B.py and wan_t2v_14B.py; Wan-Video/Wan2.2,
wan/configs/wan_ti2v_5B.py and wan_t2v_A14B.py, wan/modules/vae2_2.py."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WanFamilyConfig(GeneratorConfig):
    """Settings of Wan's relatives."""

    licence: ClassVar[str] = "Apache-2.0"
    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae")

    dit_class: ClassVar[str] = "WanTransformer3DModel"

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the parts' config.json."""
        dit = check_class(configs, "transformer", self.dit_class)
        vae = check_class(configs, "vae", "AutoencoderKLWan")
        check_patches(dit, vae, self.own_channels(dit))
        blocks = resolve_blocks(self.blocks, int(dit["num_layers"]))
        side = 2 * int(vae.get("scale_factor_spatial", 8))
        return ModelFacts(
            channels=int(dit["num_attention_heads"]) * int(dit["attention_head_dim"]),
            num_blocks=int(dit["num_layers"]),
            blocks=blocks,
            taps=self.tap_names(blocks),
            token_px=side,
            auto_tokens=480 * 832 // side**2,
            parameters=self.parameters(configs, max(blocks)),
            configs=configs,
        )

    def own_channels(self, dit: Mapping[str, Any]) -> int:
        """Return how many of the transformer's input channels are the noised latent's."""
        return int(dit["in_channels"])

    def parameters(self, configs: Configs, last: int) -> int:
        """Count the parameters of all that runs up to a block."""
        return dit_parameters(configs["transformer"], last + 1) + vae_parameters(configs["vae"])

    def num_blocks_run(self, facts: ModelFacts) -> int:
        """Count the blocks of a pass."""
        return max(facts.blocks) + 1

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count blocks up to the last tap, once a timestep and noise sample, and the VAE once."""
        rows, cols = canvas
        tokens = self.num_latents() * (rows // facts.token_px) * (cols // facts.token_px)
        dit = facts.configs["transformer"]
        block = full_block_flops(tokens, facts.channels, TEXT_ROWS, int(dit["ffn_dim"]))
        patch = int(facts.configs["vae"].get("patch_size") or 1)
        width = int(facts.configs["vae"]["base_dim"])
        vae = vae_flops(rows // patch, cols // patch, width, 1 if patch == 1 else 3)
        return float(self.passes * self.num_blocks_run(facts) * block + vae)

    def num_latents(self) -> int:
        """Return the latents of one view's own video."""
        return 1

    def prompt(self, given: "np.ndarray | str | Path | None") -> Prompt:
        """Return umT5's rows of the empty prompt, or the given ones."""
        return umt5_prompt(self.model, given)


def umt5_prompt(model: str, given: "np.ndarray | str | Path | None") -> Prompt:
    """Return umT5's rows of the empty prompt, or the given ones."""
    from vega3d.pipeline.backbones.prompt import empty_prompt_embedding
    from vega3d.pipeline.backbones.prompt_given import given_prompt

    if given is None:
        return {"prompt_embeds": empty_prompt_embedding(model, cache_dir())}
    return given_prompt(given, kept="filled")


def check_patches(dit: Mapping[str, Any], vae: Mapping[str, Any], channels: int) -> None:
    """Raise CheckpointError where transformer and VAE do not go together."""
    if tuple(dit["patch_size"]) != (1, 2, 2):
        raise CheckpointError(
            f"transformer: patch_size must be (1, 2, 2), found {dit['patch_size']}"
        )
    if vae["z_dim"] != channels:
        raise CheckpointError(
            f"vae: must have the transformer's {channels} latent channels, found {vae['z_dim']}"
        )
