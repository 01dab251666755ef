"""Bootstrap intervals, correlations and what chance alone would give.

Percentile intervals of 95 %. Letters: S scenes, K columns, B resamples, n points.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float, Int

LOW, HIGH = 2.5, 97.5
EXACT_POINTS = 7
"""Up to so many points every permutation is tried; beyond, a seeded sample of them."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over scenes; None where no scene has the number, or too few for an interval."""

    mean: float | None
    low: float | None
    high: float | None
    num_scenes: int


@dataclass(frozen=True, slots=True)
class Correlation:
    """One correlation of n points with its interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    p_value: float | None
    """Share of all orders of the points that correlate at least as strongly, sign ignored."""
    num_points: int
    num_degenerate: int
    """Resamples of constant values, left out of the interval."""

    def plain(self) -> dict[str, float | int | None]:
        """Return the fields as JSON values."""
        return asdict(self)


def bootstrap_means(
    values: Float[np.ndarray, "S K"], samples: int, seed: int
) -> Float[np.ndarray, "B K"]:
    """Return the means of each column over resampled scenes; NaN is a scene without the number.

    All columns see the same resamples, so that their differences can be read as well.
    """
    present = (~np.isnan(values)).astype(np.float64)
    filled = np.where(present > 0, values, 0.0)
    means = np.full((samples, values.shape[1]), np.nan)
    for b, weight in enumerate(resamples(len(values), samples, seed)):
        counts = weight @ present
        np.divide(weight @ filled, counts, out=means[b], where=counts > 0)
    return means


def resamples(num_scenes: int, samples: int, seed: int) -> Iterator[Int[np.ndarray, " S"]]:
    """Yield how often each scene is drawn, so many times: the same for every table of a report."""
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.bincount(rng.integers(0, num_scenes, num_scenes), minlength=num_scenes)


def estimates(values: Float[np.ndarray, "S K"], samples: int, seed: int) -> list[Estimate]:
    """Return mean and bootstrap interval over scenes of each column."""
    num = (~np.isnan(values)).sum(axis=0)
    means = bootstrap_means(values, samples, seed) if len(values) else np.empty((0, len(num)))
    found = []
    for k, count in enumerate(num.tolist()):
        column = values[:, k]
        mean = float(column[~np.isnan(column)].mean()) if count else None
        low, high = bounds(means[:, k]) if count > 1 else (None, None)
        found.append(Estimate(mean, low, high, count))
    return found


def pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float | None:
    """Return the linear correlation; None for under three points or a constant."""
    dx, dy = x - x.mean() if len(x) else x, y - y.mean() if len(y) else y
    scale = float(np.sqrt((dx @ dx) * (dy @ dy)))
    if len(x) < 3 or scale <= 1e-12 * max(1.0, float(abs(x).max() * abs(y).max())):
        return None
    return float(np.clip(dx @ dy / scale, -1.0, 1.0))


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float | None:
    """Return the correlation of ranks; ties share their mean rank."""
    return pearson(_ranks(x), _ranks(y))


def correlate(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    measure: Callable[[np.ndarray, np.ndarray], float | None],
    samples: int,
    seed: int,
) -> Correlation:
    """Return a correlation, its bootstrap interval over points and its permutation p-value."""
    value = measure(x, y)
    if value is None:
        return Correlation(None, None, None, None, len(x), 0)
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(samples):
        chosen = rng.integers(0, len(x), len(x))
        resampled.append(measure(x[chosen], y[chosen]))
    kept = np.array([r for r in resampled if r is not None])
    low, high = bounds(kept)
    p_value = _permutation_p(x, y, measure, value, rng)
    return Correlation(value, low, high, p_value, len(x), samples - len(kept))


def _permutation_p(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    measure: Callable[[np.ndarray, np.ndarray], float | None],
    value: float,
    rng: np.random.Generator,
) -> float:
    if len(x) <= EXACT_POINTS:
        orders = [np.array(order) for order in permutations(range(len(x)))]
    else:
        orders = [np.arange(len(x)), *(rng.permutation(len(x)) for _ in range(1999))]
    as_strong = [abs(measure(x, y[order]) or 0.0) >= abs(value) - 1e-12 for order in orders]
    return sum(as_strong) / len(orders)


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    ranks: np.ndarray = below + (equal + 1) / 2.0
    return ranks


def bounds(values: Float[np.ndarray, " B"]) -> tuple[float | None, float | None]:
    """Return the interval's ends; NaN is a resample without the number."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None, None
    low, high = np.percentile(values, [LOW, HIGH])
    return float(low), float(high)
