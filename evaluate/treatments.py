"""What is done to unit tokens before they are compared: the controls of raw cosine.

Every treatment starts from tokens of length one and ends with them. Centring the features as they
come would let differences of norm leak into the result. The statistics are those of the tokens of
OTHER scenes, so that no scene is measured with a ruler made of itself; a lone scene has only its
own, and says so. Letters as in cells.py.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vega3d.evaluate import fused
from vega3d.evaluate.config import Treatment

NO_DIRECTION = 1e-6
"""A treated token no longer than this is rounding error of a constant, and becomes zero."""

FLAT_CHANNEL = 1e-6
"""A channel whose standard deviation is at most this share of its mean counts as constant: what is
left of a constant after rounding, and after taking a square from a square, is less."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelSums:
    """Sums of unit tokens by channel, float64; adding merges scenes, subtracting takes one out."""

    count: int
    total: Float[np.ndarray, " C"]
    squares: Float[np.ndarray, " C"]

    def __add__(self, other: "ChannelSums") -> "ChannelSums":
        return ChannelSums(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    def __sub__(self, other: "ChannelSums") -> "ChannelSums":
        return ChannelSums(
            self.count - other.count, self.total - other.total, self.squares - other.squares
        )

    @property
    def mean(self) -> Float[np.ndarray, " C"]:
        """Mean of each channel; 0 without tokens."""
        mean: np.ndarray = self.total / max(self.count, 1)
        return mean

    @property
    def std(self) -> Float[np.ndarray, " C"]:
        """Standard deviation of each channel (population)."""
        variance = self.squares / max(self.count, 1) - self.mean**2
        std: np.ndarray = np.sqrt(np.maximum(variance, 0.0))
        return std

    def largest(self, num: int) -> Int[np.ndarray, " K"]:
        """Return the `num` channels of largest mean square, at most half of all, ascending."""
        kept = min(num, len(self.squares) // 2)
        return np.sort(np.argsort(-self.squares, kind="stable")[:kept])


def channel_sums(unit: Float[np.ndarray, "N C"]) -> ChannelSums:
    """Sum unit tokens and their squares by channel, in float64 and in a fixed order."""
    total, squares = np.zeros(unit.shape[1]), np.zeros(unit.shape[1])
    fused.sums_of_channels(unit, total, squares)
    return ChannelSums(len(unit), total, squares)


def treat(
    unit: Float[np.ndarray, "N C"], treatment: Treatment, sums: ChannelSums, trim_channels: int
) -> Float[np.ndarray, "N C"]:
    """Return treated tokens of length one, in the type they came in.

    Args:
        unit: Tokens of length one.
        treatment: raw: as they are. centred: minus the mean token. standardised: also divided by
            each channel's deviation, channels that do not vary dropped. trimmed: the channels of
            largest mean square set to zero, nothing else.
        sums: Where mean, deviation and mean square come from.
        trim_channels: Channels that `trimmed` drops.
    """
    if treatment == "raw":
        return unit
    shift, scale = np.zeros(unit.shape[1]), np.ones(unit.shape[1])
    if treatment == "trimmed":
        scale[sums.largest(trim_channels)] = 0.0
    else:
        shift = sums.mean
    if treatment == "standardised":
        varies = sums.std > FLAT_CHANNEL * np.abs(sums.mean)
        scale = np.divide(1.0, sums.std, out=np.zeros_like(shift), where=varies)
    result = np.empty_like(unit)
    fused.treated_rows(unit, shift, scale, NO_DIRECTION, result)
    return result
