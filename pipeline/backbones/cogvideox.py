"""CogVideoX: a video generator by diffusion; each view is a video of one frame.

Steps are those of its training schedule, whose noise is raised (snr_shift_scale: 3 for the 2B
model, 1 for the 5B one, which is told by its rotary positions) and ends without signal.
The prompt is empty, padded to 226 rows. Letters: n views, z latent channels, h w tokens.

Sources: THUDM/CogVideo; THUDM/CogVideoX-2b and -5b, config.json files; diffusers,
pipeline_cogvideox.py, scheduling_ddim_cogvideox.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vega3d.pipeline.backbones.checkpoints import check_class
from vega3d.pipeline.backbones.generators import DitConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.sd_noise import signal
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

TEXT_ROWS = 226
_DIT = {
    "_class_name": "CogVideoXTransformer3DModel",
    "attention_head_dim": 64,
    "in_channels": 16,
    "patch_size": 2,
    "sample_height": 60,
    "sample_width": 90,
    "sample_frames": 49,
    "text_embed_dim": 4096,
    "time_embed_dim": 512,
}
_VAE = {
    "_class_name": "AutoencoderKLCogVideoX",
    "block_out_channels": (128, 256, 256, 512),
    "layers_per_block": 3,
    "latent_channels": 16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CogVideoXConfig(DitConfig):
    """Settings of CogVideoX text-to-video."""

    name: ClassVar[str] = "cogvideox"
    classes: ClassVar[str] = "CogVideoXTransformer3DModel, AutoencoderKLCogVideoX"
    licence: ClassVar[str] = "Apache-2.0"
    own_px: ClassVar[int] = 480 * 720
    published: ClassVar[Mapping[str, Configs]] = {
        "THUDM/CogVideoX-2b": {
            "transformer": {**_DIT, "num_attention_heads": 30, "num_layers": 30},
            "vae": _VAE,
        },
        "THUDM/CogVideoX-5b": {
            "transformer": {
                **_DIT,
                "num_attention_heads": 48,
                "num_layers": 42,
                "use_rotary_positional_embeddings": True,
            },
            "vae": _VAE,
        },
    }

    model: str = "THUDM/CogVideoX-2b"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (15,)
    """Blocks whose OUTPUT is kept, from 0; negative counts from the end (-1 is the last)."""

    timesteps: tuple[int, ...] = (300,)
    """Steps of the training schedule, 0..999; 0 is nearly clean."""

    def __post_init__(self) -> None:
        """Check every field once."""
        DitConfig.__post_init__(self)
        if max(self.timesteps) > 999:
            raise ValueError(f"timesteps must lie in 0..999 for {self.name}, got {self.timesteps}")

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the parts' config.json."""
        dit = check_class(configs, "transformer", "CogVideoXTransformer3DModel")
        check_class(configs, "vae", "AutoencoderKLCogVideoX")
        if dit.get("patch_size_t") or dit.get("use_learned_positional_embeddings"):
            raise CheckpointError(
                "transformer: patches in time (CogVideoX 1.5) and learned positions (image to "
                "video) are not read; give CogVideoX-2b or -5b"
            )
        return self.facts(configs)

    def tally_dit(self, dit: Config, last: int, tokens: int) -> Tally:
        """Count the transformer up to a block on so many tokens of a picture."""
        return dit_tally(dit, last, tokens)

    def tally_vae(self, vae: Config, canvas: Canvas) -> Tally:
        """Count the VAE's encoder on one picture."""
        return vae_tally(vae, canvas)

    def prompt(self, given: "np.ndarray | str | Path | None") -> Prompt:
        """Return T5's 226 rows of the empty prompt, or the given ones."""
        from vega3d.pipeline.backbones.prompt_given import given_prompt
        from vega3d.pipeline.backbones.prompt_t5 import t5_prompt

        if given is None:
            return t5_prompt(self.model, TEXT_ROWS)
        return given_prompt(given)

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the transformer up to the last tap, and the VAE's encoder."""
        from vega3d.pipeline.backbones.cogvideox_network import CogVideoXDit, CogVideoXVae
        from vega3d.pipeline.backbones.noised import Noised

        shift = snr_shift(facts.configs["transformer"])
        vae = CogVideoXVae(folder, numerics.device)
        dit = CogVideoXDit(folder, facts, numerics, self.dtype, prompt)
        return Noised(self, vae.latents, lambda k: noise_level(k, shift), dit.run)


def snr_shift(dit: Config) -> float:
    """Return snr_shift_scale of the 2B or the 5B model's schedule."""
    return 1.0 if dit.get("use_rotary_positional_embeddings") else 3.0


@cache
def _signal(shift: float) -> tuple[float, ...]:
    """Return sqrt(abar) of every step: shifted, then stretched to end at 0.

    Source: diffusers, scheduling_ddim_cogvideox.py (rescale_zero_terminal_snr; Lin et al., arXiv
    2305.08891, Algorithm 1).
    """
    found = [math.sqrt(kept / (shift + (1 - shift) * kept)) for kept in signal()]
    begin, end = found[0], found[-1]
    return tuple((value - end) * begin / (begin - end) for value in found)


def noise_level(timestep: int, shift: float) -> tuple[float, float]:
    """Return sqrt(abar) and sqrt(1 - abar) of a training step."""
    kept = _signal(shift)[timestep]
    return kept, math.sqrt(1 - kept**2)


def dit_tally(dit: Config, last: int, tokens: int) -> Tally:
    """Count the transformer up to a block.

    Source: diffusers, cogvideox_transformer_3d.py.
    """
    tally, head = Tally(), int(dit["attention_head_dim"])
    c, time = int(dit["num_attention_heads"]) * head, int(dit.get("time_embed_dim", 512))
    every = tokens + TEXT_ROWS if tokens else 0
    tally.linear(4 * int(dit["in_channels"]), c, tokens)
    tally.linear(int(dit["text_embed_dim"]), c, TEXT_ROWS if tokens else 0)
    tally.linear(c, time, 1)
    tally.linear(time, time, 1)
    for _ in range(last + 1):
        for _ in range(2):
            tally.linear(time, 6 * c, 1)
            tally.norm(c)
            tally.norm(head)  # of queries, and of keys
        for _ in range(4):
            tally.linear(c, c, every)
        tally.linear(c, 4 * c, every)
        tally.linear(4 * c, c, every)
        tally.scores(every, every, c)
    return tally


def vae_tally(vae: Config, canvas: Canvas) -> Tally:
    """Count the VAE's encoder on one frame, of which a kernel sees three alike.

    Source: diffusers, autoencoder_kl_cogvideox.py, CogVideoXEncoder3D.
    """
    tally, widths = Tally(), [int(width) for width in vae["block_out_channels"]]
    cells: float = canvas[0] * canvas[1]
    tally.conv(int(vae.get("in_channels", 3)), widths[0], 27, cells)
    before = widths[0]
    for level, width in enumerate(widths):
        for _ in range(int(vae["layers_per_block"])):
            _residual(tally, before, width, cells)
            before = width
        if level < len(widths) - 1:
            cells /= 4
            tally.conv(width, width, 9, cells)
    for _ in range(2):
        _residual(tally, before, before, cells)
    tally.norm(before)
    tally.conv(before, 2 * int(vae["latent_channels"]), 27, cells)
    return tally


def _residual(tally: Tally, before: int, after: int, cells: float) -> None:
    tally.norm(before)
    tally.norm(after)
    tally.conv(before, after, 27, cells)
    tally.conv(after, after, 27, cells)
    if before != after:
        tally.conv(before, after, 1, cells)
