"""A generator that sees each view alone: draws the view's noise, and yields the taps.

Standard library only; the networks are given as functions.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vega3d.pipeline.backbones.generators import GeneratorConfig
from vega3d.pipeline.backbones.settings import tap_name

if TYPE_CHECKING:
    from jaxtyping import Float32
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Views

Level = Callable[[int], tuple[float, float]]
"""Timestep -> what the clean latent and the noise are multiplied with."""


class Noised:
    """Noise, and a network; a view's noise has the shape of its latent."""

    joint = False

    def __init__(
        self,
        config: GeneratorConfig,
        latents: "Callable[[Tensor], Tensor]",
        level: Level,
        run: "Callable[[Tensor, int], Iterator[tuple[int, Float32[Tensor, 'n h w C']]]]",
    ) -> None:
        """Take the parts.

        Args:
            config: Says which noise levels.
            latents: From pixels in [-1, 1].
            level: How a noise level mixes latent and noise.
            run: From noised latents and timestep to tapped blocks and their cells.
        """
        self._config, self._latents, self._level, self._run = config, latents, level, run

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield every tap of every noise level."""
        latents = views.latents(self._latents)
        shape = tuple(latents.shape[1:])
        for sample in range(self._config.noise_samples):
            for timestep in self._config.timesteps:
                eps = views.noise(self._config.noise_seed, timestep, sample, shape)
                kept, noise = self._level(timestep)
                for block, cells in self._run(kept * latents + noise * eps, timestep):
                    yield tap_name(timestep, block, sample), cells


def flow_level(timestep: int) -> tuple[float, float]:
    """Mix as flow matching does: sigma = k / 1000."""
    return 1 - timestep / 1000, timestep / 1000
