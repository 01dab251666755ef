"""Means and differences with intervals over rooms and seeds.

Letters: K seeds, R rooms, B resamples.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from vega3d.evaluate.intervals import bounds

GAIN, LOSS, OPEN = "gain", "loss", "open"


def estimate(values: Float[np.ndarray, "K R"], samples: int) -> dict[str, float | None]:
    """Return the mean, and the interval that 95 % of resampled seeds and rooms give."""
    low, high = bounds(resampled_means(values, samples))
    return {"mean": float(np.nanmean(values)), "low": low, "high": high}


def difference(
    ours: Float[np.ndarray, "K R"], theirs: Float[np.ndarray, "K R"], sign: int, samples: int
) -> dict[str, Any]:
    """Compare the same rooms and seeds in pairs.

    Args:
        ours: One number a seed and room; NaN where a room has none.
        theirs: Likewise.
        sign: 1 where more is better, -1 where less is.
        samples: Resamples.

    Returns:
        Mean, interval and a verdict: gain, loss, or open where the interval holds 0.
    """
    found: dict[str, Any] = estimate(ours - theirs, samples)
    ends = [sign * found[end] for end in ("low", "high") if found[end] is not None]
    verdict = OPEN
    if ends and min(ends) > 0:
        verdict = GAIN
    elif ends and max(ends) < 0:
        verdict = LOSS
    return {**found, "verdict": verdict}


def resampled_means(values: Float[np.ndarray, "K R"], samples: int) -> Float64[np.ndarray, " B"]:
    """Return means over seeds and rooms that are both drawn anew, with replacement."""
    rng = np.random.default_rng(0)
    seeds, rooms = (_draws(rng, samples, size) for size in values.shape)
    present = ~np.isnan(values)
    total = np.einsum("bk,kr,br->b", seeds, np.where(present, values, 0.0), rooms, optimize=True)
    count = np.einsum("bk,kr,br->b", seeds, present.astype(float), rooms, optimize=True)
    means: np.ndarray = total / np.where(count > 0, count, np.nan)
    return means


def _draws(rng: np.random.Generator, samples: int, size: int) -> np.ndarray:
    """Return how often each of `size` things is drawn, [B, size]."""
    return rng.multinomial(size, np.full(size, 1 / size), samples).astype(float)
