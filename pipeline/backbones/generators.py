"""The settings that generators share: which noise levels they are shown, and which blocks are kept.

Standard library only. `wan.py` has settings of its own, whose digests stand in stores.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.settings import (
    BY_DEVICE,
    Canvas,
    Configs,
    Dtype,
    Fit,
    ModelFacts,
    check_blocks,
    check_choices,
    check_noise_settings,
    check_resolution,
    resolve_blocks,
    tap_name,
)
from vega3d.pipeline.backbones.tally import Tally
from vega3d.pipeline.backbones.unet_sizes import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig(BackboneConfig):
    """Settings of a generator that is shown noised latents."""

    draws_noise: ClassVar[bool] = True
    takes: ClassVar[frozenset[str]] = frozenset({"latents"})

    multiple: ClassVar[int] = 16
    """Of which the input's rows and columns must be multiples, px."""

    model: str
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...]
    """Blocks whose OUTPUT is kept, from 0; negative counts from the end (-1 is the last)."""

    timesteps: tuple[int, ...] = (300,)
    """Noise levels k in 0..1000, as the model counts them; 0 is the clean latent."""

    resolution: tuple[int, int] | Literal["auto"] = (480, 640)
    """Size of the input, px, rows first in Python; `auto` keeps each image's aspect at about the
    token count of the model's own size."""

    fit: Fit = "pad"
    """How an image of another aspect gets there: pad (all of it is seen), crop, stretch."""

    dtype: Dtype = field(default="float32", metadata=BY_DEVICE)
    """Precision of the matrix products."""

    noise_seed: int = 0
    """Seed of the noise."""

    noise_samples: int = 1
    """Independent noise draws a view, each its own tap."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        check_blocks(self.blocks)
        check_resolution(self.resolution, words=("auto",), multiple=self.multiple)
        check_noise_settings(self.timesteps, self.noise_seed, self.noise_samples)

    @property
    def passes(self) -> int:
        """How often a view goes through the network."""
        return len(self.timesteps) * self.noise_samples

    def tap_names(self, blocks: tuple[int, ...]) -> tuple[str, ...]:
        """Return the names of all taps, in the order in which they come."""
        return tuple(
            tap_name(timestep, block, sample)
            for sample in range(self.noise_samples)
            for timestep in self.timesteps
            for block in blocks
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DitConfig(GeneratorConfig):
    """Settings of a generator that is a transformer over the latents of a VAE beside it."""

    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae")
    token_px: ClassVar[int] = 16
    """Side of the square of input that a token stands for, px."""

    own_px: ClassVar[int]
    """Pixels of the model's own picture, by which `auto` counts its tokens."""

    @abstractmethod
    def tally_dit(self, dit: Config, last: int, tokens: int) -> Tally:
        """Count the transformer up to a block on so many tokens of a picture."""

    @abstractmethod
    def tally_vae(self, vae: Config, canvas: Canvas) -> Tally:
        """Count the VAE's encoder on one picture."""

    def facts(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from configs that were found to be of this family."""
        dit = configs["transformer"]
        num_blocks = int(dit["num_layers"]) + int(dit.get("num_single_layers", 0))
        blocks = resolve_blocks(self.blocks, num_blocks)
        vae = self.tally_vae(configs["vae"], (0, 0))
        return ModelFacts(
            channels=int(dit["num_attention_heads"]) * int(dit["attention_head_dim"]),
            num_blocks=num_blocks,
            blocks=blocks,
            taps=self.tap_names(blocks),
            token_px=self.token_px,
            auto_tokens=self.own_px // self.token_px**2,
            parameters=self.tally_dit(dit, max(blocks), 0).parameters + vae.parameters,
            configs=configs,
        )

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count blocks up to the last tap, once a timestep and noise sample, and the VAE once."""
        tokens = canvas[0] * canvas[1] // self.token_px**2
        dit = self.tally_dit(facts.configs["transformer"], max(facts.blocks), tokens)
        return self.passes * dit.flops + self.tally_vae(facts.configs["vae"], canvas).flops
