"""Wan's noise levels, and which of them go through the blocks together.

A pass has room for as many latents as a batch has. Where a scene's views leave some of it free,
several timesteps of the same latents fill it: the products are larger, the memory is the same.
Letters: n videos of a pass, C channels.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float32
from torch import Tensor

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.wan_networks import WanTransformer

Level = tuple[float, Float32[Tensor, "1 6 C"]]
"""Sigma, and the blocks' modulation."""


def noise_level(
    dit: "WanTransformer", timestep: int, recipe: Literal["vega3d", "reference"]
) -> Level:
    """Return one timestep's level, all in float32."""
    if recipe == "vega3d":
        return timestep / 1000, dit.modulation(dit.sinusoid(timestep))
    from vega3d.pipeline.backbones.wan_reference import reference_noise_level, reference_sinusoid

    scheduled, sigma = reference_noise_level(timestep)
    return sigma, dit.modulation(reference_sinusoid(scheduled, dit.freq_dim))


def together(levels: Mapping[int, Level], latents: int, room: int) -> Iterator[dict[int, Level]]:
    """Yield the levels of each pass, by timestep.

    Args:
        levels: All of them.
        latents: That one level takes through the blocks.
        room: Latents that a pass may have; one level always goes.
    """
    count, timesteps = max(1, room // latents), list(levels)
    for start in range(0, len(timesteps), count):
        yield {timestep: levels[timestep] for timestep in timesteps[start : start + count]}


def modulations(levels: Mapping[int, Level], videos: int) -> Float32[Tensor, "n 6 C"]:
    """Return the modulation of each of so many videos a level; one for all of a single level."""
    found = [modulation for _, modulation in levels.values()]
    return found[0] if len(found) == 1 else torch.cat([one.expand(videos, -1, -1) for one in found])
