"""What a reading is worth: sums a scene, and from them R2, accuracy, plain errors and intervals.

Letters: n tokens (or pairs), S scenes, D numbers asked for, K sums, B resamples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float64, Int

from vega3d.evaluate.intervals import Estimate, bounds, resamples

_LARGEST_RATIO = 100.0
"""Depths read as more than so many times the true one count as that much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One thing that is asked."""

    name: str
    title: str
    score: str
    """R2 of numbers, accuracy of classes."""
    error: str
    """Name and unit of the error in plain terms; empty where the score says all."""
    told: str
    """In a sentence."""


QUESTIONS = (
    Question(
        name="depth", title="log depth", score="R2", error="relative error of depth",
        told="z-depth of the token, natural logarithm of metres",
    ),
    Question(
        name="normal", title="normal", score="R2", error="angle, degrees",
        told="unit normal of the surface in the camera's axes, from the depth of the token and its "
        "four neighbours, where their planes agree",
    ),
    Question(
        name="place", title="place in the room", score="R2", error="distance, m",
        told="where the token lies along the world's axes, from the middle of all that the scene's "
        "tokens show; the horizontal axes differ from room to room, so little of it can be known",
    ),
    Question(
        name="class", title="class", score="accuracy", error="",
        told="class of the token, from --labels",
    ),
    Question(
        name="turn", title="relative turn", score="R2", error="angle, degrees",
        told="rotation vector between two neighbouring views, from the leading components of the "
        "four quarters of both",
    ),
    Question(
        name="step", title="relative step", score="R2", error="distance, m",
        told="where the second of the two stands, in the first one's axes",
    ),
)  # fmt: skip

Errors = Callable[[np.ndarray, np.ndarray], np.ndarray]


def number_sums(
    said: Float[np.ndarray, "n D"],
    true: Float[np.ndarray, "n D"],
    scene: Int[np.ndarray, " n"],
    num_scenes: int,
    error: Errors,
) -> Float64[np.ndarray, "S K"]:
    """Sum what R2 and the mean error follow from, scene by scene."""
    squared = np.square(said - true).sum(axis=1)
    columns = [np.ones(len(true)), squared, np.square(true).sum(axis=1), error(said, true), *true.T]
    return np.stack([np.bincount(scene, c, num_scenes) for c in columns], axis=1)


def class_sums(
    said: Int[np.ndarray, " n"],
    true: Int[np.ndarray, " n"],
    scene: Int[np.ndarray, " n"],
    num_scenes: int,
) -> Float64[np.ndarray, "S 2"]:
    """Count tokens and right classes, scene by scene."""
    columns = [np.ones(len(true)), (said == true).astype(float)]
    return np.stack([np.bincount(scene, c, num_scenes) for c in columns], axis=1)


def score_of(sums: Float64[np.ndarray, "... K"]) -> Float64[np.ndarray, "..."]:
    """Return accuracy of class sums, else R2 about the mean of the tokens that are scored."""
    count = sums[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        if sums.shape[-1] == 2:
            found: np.ndarray = sums[..., 1] / count
            return found
        spread = sums[..., 2] - np.square(sums[..., 4:]).sum(axis=-1) / count
        return np.where(spread > 0, 1 - sums[..., 1] / spread, np.nan)


def error_of(sums: Float64[np.ndarray, "... K"]) -> Float64[np.ndarray, "..."]:
    """Return the mean error in plain terms."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = sums[..., 3] / sums[..., 0]
    return found


@dataclass(frozen=True, slots=True)
class Resampled:
    """A number over all scenes, and over each resample of them."""

    value: float
    draws: Float64[np.ndarray, " B"]
    num_scenes: int

    def __sub__(self, other: "Resampled") -> "Resampled":
        """Return the paired difference: both see the same resamples."""
        return Resampled(self.value - other.value, self.draws - other.draws, self.num_scenes)

    @property
    def estimate(self) -> Estimate:
        """The number with its interval."""
        if not np.isfinite(self.value):
            return Estimate(None, None, None, self.num_scenes)
        low, high = bounds(self.draws) if self.num_scenes > 1 else (None, None)
        return Estimate(self.value, low, high, self.num_scenes)


def resampled(
    sums: Float64[np.ndarray, "S K"],
    number: Callable[[np.ndarray], np.ndarray],
    samples: int,
    seed: int,
) -> Resampled:
    """Return a number of pooled sums over all scenes and over resamples of them."""
    weights = _weights(len(sums), samples, seed)
    value = float(number(sums.sum(axis=0)))
    return Resampled(value, number(weights @ sums), int((sums[:, 0] > 0).sum()))


@lru_cache(maxsize=4)
def _weights(num_scenes: int, samples: int, seed: int) -> Int[np.ndarray, "B S"]:
    """Return how often each resample draws each scene: one table for all numbers of a page."""
    return np.stack(list(resamples(num_scenes, samples, seed)))


def relative_error(said: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return |read - true| / true of depths given as logarithms."""
    gap = np.minimum(said - true, np.log(_LARGEST_RATIO))
    found: np.ndarray = np.abs(np.expm1(gap)).sum(axis=1)
    return found


def angle_deg(said: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the angle between two directions, degrees."""
    length = np.linalg.norm(said, axis=1) * np.linalg.norm(true, axis=1)
    cosine = (said * true).sum(axis=1) / np.where(length > 0, length, np.inf)
    found: np.ndarray = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return found


def turn_deg(said: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the length of the gap of two rotation vectors, degrees."""
    found: np.ndarray = np.degrees(np.linalg.norm(said - true, axis=1))
    return found


def distance_m(said: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the distance of two points, metres."""
    found: np.ndarray = np.linalg.norm(said - true, axis=1)
    return found


ERRORS: Mapping[str, Errors] = {
    "depth": relative_error,
    "normal": angle_deg,
    "place": distance_m,
    "turn": turn_deg,
    "step": distance_m,
}
