"""The settings that generators share: which noise levels they are shown, and which blocks are kept.

Standard library only. `wan.py` has settings of its own, whose digests stand in stores.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.settings import (
    BY_DEVICE,
    Dtype,
    Fit,
    check_blocks,
    check_choices,
    check_noise_settings,
    check_resolution,
    tap_name,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig(BackboneConfig):
    """Settings of a generator that is shown noised latents."""

    draws_noise: ClassVar[bool] = True

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
