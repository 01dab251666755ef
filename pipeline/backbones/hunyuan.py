"""HunyuanVideo: a video generator by flow matching; each view is a video of one frame.

Blocks are counted through: the double-stream blocks first, then the single-stream ones. The tokens
kept are the picture's. The empty prompt stands in the pipeline's own template of a description.
Letters: n views, z latent channels, h w tokens (2 x 2 latent cells), C channels.

Sources: Tencent-Hunyuan/HunyuanVideo; diffusers, pipeline_hunyuan_video.py,
transformer_hunyuan_video.py, autoencoder_kl_hunyuan_video.py (whose defaults are published).
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
from vega3d.pipeline.backbones.unet_sizes import Config
from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

    from vega3d.pipeline.backbones.encoder import Encoder

_PROMPT_ROWS = 5
"""About as many as the template leaves of an empty prompt; they hardly count."""

_DIT = {
    "_class_name": "HunyuanVideoTransformer3DModel",
    "in_channels": 16,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "num_layers": 20,
    "num_single_layers": 40,
    "num_refiner_layers": 2,
    "guidance_embeds": True,
    "text_embed_dim": 4096,
    "pooled_projection_dim": 768,
    "patch_size": 2,
    "patch_size_t": 1,
}
_VAE = {
    "_class_name": "AutoencoderKLHunyuanVideo",
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HunyuanConfig(DitConfig):
    """Settings of HunyuanVideo text-to-video."""

    name: ClassVar[str] = "hunyuan-video"
    classes: ClassVar[str] = "HunyuanVideoTransformer3DModel, AutoencoderKLHunyuanVideo"
    licence: ClassVar[str] = "Tencent Hunyuan Community"
    own_px: ClassVar[int] = 544 * 960
    published: ClassVar[Mapping[str, Configs]] = {
        "hunyuanvideo-community/HunyuanVideo": {"transformer": _DIT, "vae": _VAE}
    }

    model: str = "hunyuanvideo-community/HunyuanVideo"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (10, 40)
    """Blocks whose OUTPUT is kept, from 0, the double-stream ones first; negative counts from the
    end."""

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the parts' config.json."""
        dit = check_class(configs, "transformer", "HunyuanVideoTransformer3DModel")
        check_class(configs, "vae", "AutoencoderKLHunyuanVideo")
        if dit.get("image_condition_type") or int(dit.get("patch_size", 2)) != 2:
            raise CheckpointError(
                "transformer: image-to-video models and other patches are not read; give "
                "hunyuanvideo-community/HunyuanVideo"
            )
        return self.facts(configs)

    def tally_dit(self, dit: Config, last: int, tokens: int) -> Tally:
        """Count the transformer up to a block on so many tokens of a picture."""
        return dit_tally(dit, last, tokens)

    def tally_vae(self, vae: Config, canvas: Canvas) -> Tally:
        """Count the VAE's encoder on one picture."""
        return vae_tally(vae, canvas)

    def prompt(self, given: "np.ndarray | str | Path | None") -> Prompt:
        """Return the rows of both text encoders."""
        from vega3d.pipeline.backbones.prompt_given import given_prompt
        from vega3d.pipeline.backbones.prompt_llama import hunyuan_prompt

        if given is None:
            return hunyuan_prompt(self.model)
        return given_prompt(given, kept="masked", pooled=True)

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the transformer up to the last tap, and the VAE's encoder."""
        from vega3d.pipeline.backbones.hunyuan_network import HunyuanDit, HunyuanVae
        from vega3d.pipeline.backbones.noised import Noised, flow_level

        vae = HunyuanVae(folder, numerics.device)
        dit = HunyuanDit(folder, facts, numerics, self.dtype, prompt)
        return Noised(self, vae.latents, flow_level, dit.run)


def dit_tally(dit: Config, last: int, tokens: int) -> Tally:
    """Count the transformer up to a block."""
    tally, head = Tally(), int(dit["attention_head_dim"])
    c, text = int(dit["num_attention_heads"]) * head, int(dit["text_embed_dim"])
    rows = _PROMPT_ROWS if tokens else 0
    tally.linear(4 * int(dit["in_channels"]), c, tokens)
    told = [256, int(dit["pooled_projection_dim"]), 256, text]
    for inputs in told + [256] * bool(dit.get("guidance_embeds", True)):
        tally.linear(inputs, c, 1)
        tally.linear(c, c, 1)
    tally.linear(text, c, rows)
    for _ in range(int(dit.get("num_refiner_layers", 2))):
        tally.norm(c)
        tally.norm(c)
        for _ in range(4):
            tally.linear(c, c, rows)
        tally.linear(c, 4 * c, rows)
        tally.linear(4 * c, c, rows)
        tally.linear(c, 2 * c, 1)
    count_streams(tally, c, head, int(dit["num_layers"]), last, tokens, rows)
    return tally


def vae_tally(vae: Config, canvas: Canvas) -> Tally:
    """Count the VAE's encoder on one frame, of which a causal kernel sees three alike."""
    tally, widths = Tally(), [int(width) for width in vae["block_out_channels"]]
    cells: float = canvas[0] * canvas[1]
    tally.conv(int(vae.get("in_channels", 3)), widths[0], 27, cells)
    before = widths[0]
    for level, width in enumerate(widths):
        for _ in range(int(vae["layers_per_block"])):
            _residual(tally, before, width, cells)
            before = width
        if level < 3:
            cells /= 4
            tally.conv(width, width, 27, cells)
    last, latent = widths[-1], 2 * int(vae["latent_channels"])
    _residual(tally, last, last, cells)
    tally.norm(last)
    for _ in range(4):
        tally.linear(last, last, cells)
    tally.scores(cells, cells, last)
    _residual(tally, last, last, cells)
    tally.norm(last)
    tally.conv(last, latent, 27, cells)
    tally.conv(latent, latent, 1, cells)
    return tally


def _residual(tally: Tally, before: int, after: int, cells: float) -> None:
    tally.norm(before)
    tally.norm(after)
    tally.conv(before, after, 27, cells)
    tally.conv(after, after, 27, cells)
    if before != after:
        tally.conv(before, after, 1, cells)
