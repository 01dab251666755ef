"""Noise levels of Stable Video Diffusion: see `svd.py`. Standard library only."""

import math

SIGMA_MIN, SIGMA_MAX = 0.002, 700.0
"""Source: stabilityai/stable-video-diffusion-img2vid, scheduler_config.json."""


def sigma_of(timestep: int) -> float:
    """Return EDM's sigma of a noise level k, within the model's own range."""
    if timestep >= 1000:
        return SIGMA_MAX
    return min(max(timestep / (1000 - timestep), SIGMA_MIN), SIGMA_MAX)


def preconditioned(sigma: float) -> tuple[float, float]:
    """Return c_in and c_noise."""
    return 1 / math.sqrt(sigma**2 + 1), 0.25 * math.log(sigma)
