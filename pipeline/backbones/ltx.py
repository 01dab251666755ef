"""LTX-Video: a video generator by flow matching on latents of 32 x 32 px; each view is one frame.

The prompt is empty; of its padded rows only the real ones are attended to.
Letters: n views, z latent channels, h w tokens (one latent cell each), C channels.

From 0.9.5 on its VAE's stages end by folding neighbours into channels; the transformer is the same,
from 0.9.7 on a larger one too. Positions that `pipeline_ltx_condition.py` gives the later ones are
those of `pipeline_ltx.py` where there is one frame.

Sources: Lightricks/LTX-Video; diffusers, pipeline_ltx.py, transformer_ltx.py,
autoencoder_kl_ltx.py; sizes of the later ones: diffusers, scripts/convert_ltx_to_diffusers.py.
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
from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

    from vega3d.pipeline.backbones.encoder import Encoder

TEXT_ROWS = 128

_DIT = {
    "_class_name": "LTXVideoTransformer3DModel",
    "in_channels": 128,
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "cross_attention_dim": 2048,
    "num_layers": 28,
    "caption_channels": 4096,
}
_VAE = {
    "_class_name": "AutoencoderKLLTXVideo",
    "latent_channels": 128,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": (4, 3, 3, 3, 4),
    "spatio_temporal_scaling": (True, True, True, False),
    "patch_size": 4,
}
_FOLDS = {"spatial": (1, 4), "temporal": (2, 1), "spatiotemporal": (2, 4)}
"""Frames and pixels that a stage's end folds into one."""

_LATER_BLOCK = "LTXVideo095DownBlock3D"
_VAE_LATER = {
    "_class_name": "AutoencoderKLLTXVideo",
    "latent_channels": 128,
    "block_out_channels": (128, 256, 512, 1024, 2048),
    "down_block_types": (_LATER_BLOCK,) * 4,
    "layers_per_block": (4, 6, 6, 2, 2),
    "spatio_temporal_scaling": (True,) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "decoder_block_out_channels": (256, 512, 1024),
    "decoder_layers_per_block": (5, 5, 5, 5),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (False,) * 4,
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
    "patch_size": 4,
}
_DIT_13B = {**_DIT, "attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48}


@dataclass(frozen=True, kw_only=True, slots=True)
class LtxConfig(DitConfig):
    """Settings of LTX-Video."""

    name: ClassVar[str] = "ltx-video"
    classes: ClassVar[str] = "LTXVideoTransformer3DModel, AutoencoderKLLTXVideo"
    licence: ClassVar[str] = "LTX-Video Open Weights"
    own_px: ClassVar[int] = 512 * 704
    token_px: ClassVar[int] = 32
    multiple: ClassVar[int] = 32
    published: ClassVar[Mapping[str, Configs]] = {
        "Lightricks/LTX-Video": {"transformer": _DIT, "vae": _VAE},
        "Lightricks/LTX-Video-0.9.5": {"transformer": _DIT, "vae": _VAE_LATER},
        "Lightricks/LTX-Video-0.9.7-dev": {"transformer": _DIT_13B, "vae": _VAE_LATER},
    }

    model: str = "Lightricks/LTX-Video"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (14,)
    """Blocks whose OUTPUT is kept, from 0; negative counts from the end (-1 is the last)."""

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the parts' config.json."""
        dit = check_class(configs, "transformer", "LTXVideoTransformer3DModel")
        vae = check_class(configs, "vae", "AutoencoderKLLTXVideo")
        kinds = {str(kind) for kind in vae.get("down_block_types", ())}
        if kinds not in (set(), {"LTXVideoDownBlock3D"}, {_LATER_BLOCK}):
            raise CheckpointError(
                f"vae: down_block_types must be LTXVideoDownBlock3D or {_LATER_BLOCK} throughout, "
                f"found {sorted(kinds)}"
            )
        if int(dit.get("patch_size", 1)) != 1:
            raise CheckpointError(f"transformer: patch_size must be 1, found {dit['patch_size']}")
        return self.facts(configs)

    def tally_dit(self, dit: Config, last: int, tokens: int) -> Tally:
        """Count the transformer up to a block on so many tokens of a picture."""
        return dit_tally(dit, last, tokens)

    def tally_vae(self, vae: Config, canvas: Canvas) -> Tally:
        """Count the VAE's encoder on one picture."""
        return vae_tally(vae, canvas)

    def prompt(self, given: "np.ndarray | str | Path | None") -> Prompt:
        """Return T5's real rows of the empty prompt, or the given ones."""
        from vega3d.pipeline.backbones.prompt_given import given_prompt
        from vega3d.pipeline.backbones.prompt_t5 import t5_prompt

        if given is None:
            return t5_prompt(self.model, TEXT_ROWS, kept="real")
        return given_prompt(given, kept="masked")

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the transformer up to the last tap, and the VAE's encoder."""
        from vega3d.pipeline.backbones.ltx_network import LtxDit, LtxVae
        from vega3d.pipeline.backbones.noised import Noised, flow_level

        vae = LtxVae(folder, numerics.device)
        dit = LtxDit(folder, facts, numerics, self.dtype, prompt)
        return Noised(self, vae.latents, flow_level, dit.run)


def dit_tally(dit: Config, last: int, tokens: int) -> Tally:
    """Count the transformer up to a block; the one row of the empty prompt counts for nothing."""
    tally = Tally()
    c = int(dit["num_attention_heads"]) * int(dit["attention_head_dim"])
    text = int(dit.get("cross_attention_dim", 2048))
    tally.linear(int(dit["in_channels"]), c, tokens)
    tally.linear(256, c, 1)
    tally.linear(c, c, 1)
    tally.linear(c, 6 * c, 1)
    tally.linear(int(dit.get("caption_channels", 4096)), c, 1)
    tally.linear(c, c, 1)
    for _ in range(last + 1):
        for inputs, told in ((c, tokens), (text, 1)):
            tally.linear(c, c, tokens)
            tally.linear(inputs, c, told)
            tally.linear(inputs, c, told)
            tally.linear(c, c, tokens)
            tally.norm(c, bias=False)
            tally.norm(c, bias=False)
            tally.scores(tokens, told, c)
        tally.linear(c, 4 * c, tokens)
        tally.linear(4 * c, c, tokens)
        tally.table(6 * c)
    return tally


def vae_tally(vae: Config, canvas: Canvas) -> Tally:
    """Count the VAE's encoder on one frame, of which a causal kernel sees three alike."""
    tally, patch = Tally(), int(vae.get("patch_size", 4))
    widths = [int(width) for width in vae["block_out_channels"]]
    cells = canvas[0] * canvas[1] / patch**2
    tally.conv(3 * patch**2, widths[0], 27, cells)
    later = _LATER_BLOCK in vae.get("down_block_types", ())
    for level, width in enumerate(widths[:-1] if later else widths):
        after = widths[min(level + 1, len(widths) - 1)]
        for _ in range(int(vae["layers_per_block"][level])):
            _residual(tally, width, width, cells)
        if not vae["spatio_temporal_scaling"][level]:
            continue
        if later:
            frames, pixels = _FOLDS[vae["downsample_type"][level]]
            tally.conv(width, after // (frames * pixels), 27, cells * frames)
            cells /= pixels
            continue
        cells /= 4
        tally.conv(width, width, 27, cells)
        if after != width:
            _residual(tally, width, after, cells)
    for _ in range(int(vae["layers_per_block"][-1])):
        _residual(tally, widths[-1], widths[-1], cells)
    tally.conv(widths[-1], int(vae["latent_channels"]) + 1, 27, cells)
    return tally


def _residual(tally: Tally, before: int, after: int, cells: float) -> None:
    tally.conv(before, after, 27, cells)
    tally.conv(after, after, 27, cells)
    if before != after:
        tally.norm(before)
        tally.conv(before, after, 1, cells)
