"""Noise levels of Stable Diffusion's training schedule. Standard library only."""

import math
from functools import cache

BETAS = (0.00085, 0.012)
"""First and last of 1000 betas, linear in their square roots.

Source: stabilityai/stable-diffusion-2-1-base, scheduler_config.json (scaled_linear)."""


@cache
def signal() -> tuple[float, ...]:
    """Return abar of every step.

    Source: diffusers, scheduling_ddpm.py (beta_schedule scaled_linear).
    """
    first, last = (math.sqrt(beta) for beta in BETAS)
    kept, found = 1.0, []
    for k in range(1000):
        kept *= 1 - (first + (last - first) * k / 999) ** 2
        found.append(kept)
    return tuple(found)


def noise_level(timestep: int) -> tuple[float, float]:
    """Return sqrt(abar) and sqrt(1 - abar) of a training step."""
    kept = signal()[timestep]
    return math.sqrt(kept), math.sqrt(1 - kept)
