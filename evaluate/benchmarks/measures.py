"""Numbers over queries as functions of summed statistics: values, intervals, paired tests.

Every metric here is `reduce(sum over queries of a few statistics)`: a mean keeps (value, 1), BLEU
its n-gram counts. Resampling scenes then is one matrix product. Letters: N queries, S statistics,
G scenes, B resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vega3d.evaluate.intervals import HIGH, LOW

Reduce = Callable[[Float64[np.ndarray, "... S"]], Float64[np.ndarray, "..."]]

OVERALL = "overall"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number of a score, such as `acc@0.5` of the unique queries; NaN where there is none."""

    metric: str
    group: str
    statistics: Float64[np.ndarray, "N S"]
    reduce: Reduce
    scale: float = 100.0
    """What the published tables multiply with."""

    @property
    def name(self) -> str:
        """The metric and its group in one word."""
        return f"{self.metric} {self.group}"

    @property
    def value(self) -> float:
        """The number over all queries."""
        return self.of(self.statistics.sum(axis=0))

    def of(self, totals: Float64[np.ndarray, " S"]) -> float:
        """Return the number that summed statistics stand for."""
        return float(self.scale * self.reduce(totals))


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What a query asks and what is true, as a person reads it."""

    query_id: str
    scene_id: str
    kind: str
    """Question type, as the benchmark names it."""

    question: str = ""
    truth: str = ""
    answer: str = ""
    worth: float = 0.0
    """The query's own value of the benchmark's first metric, in [0, 1]; for the list of worst."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A benchmark's numbers for one file of predictions."""

    benchmark: str
    protocol: str
    queries: tuple[Query, ...]
    measures: tuple[Measure, ...]
    missing: tuple[str, ...] = ()
    """Queries without a prediction: they count as wrong."""

    @property
    def values(self) -> dict[str, float]:
        """Each measure's number, as published: mostly percent."""
        return {measure.name: measure.value for measure in self.measures}


def mean_measures(
    metric: str,
    values: Float64[np.ndarray, " N"],
    kinds: Sequence[str],
    scale: float = 100.0,
) -> tuple[Measure, ...]:
    """Return the mean of a value over all queries and over each kind, in order of appearance."""
    masks = {OVERALL: np.ones(len(values), dtype=bool)}
    masks |= {kind: np.array([each == kind for each in kinds]) for kind in dict.fromkeys(kinds)}
    return tuple(
        Measure(
            metric=metric,
            group=group,
            statistics=_mean_statistics(values, mask),
            reduce=_mean,
            scale=scale,
        )
        for group, mask in masks.items()
    )


def intervals(
    score: Score, *, samples: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return each measure's 95 % interval by resampling scenes with all their queries.

    Args:
        score: Its queries name their scenes; with one scene an interval says nothing (NaN).
        samples: Resamples B.
        seed: The same for every measure, and for every score of the same scenes.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993 (percentile, clustered).
    """
    scene_of = _scene_indices(score)
    weights = _weights(int(scene_of.max(initial=-1)) + 1, samples, seed)
    return {
        measure.name: _ends(_resampled(measure, scene_of, weights)) for measure in score.measures
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much better one file of predictions is than another, on the same queries."""

    difference: float
    low: float
    high: float
    p_value: float
    """Two-sided, of a permutation test that swaps the two files' answers scene by scene."""


def compare(
    score: Score, other: Score, *, samples: int = 2000, seed: int = 0
) -> dict[str, Difference]:
    """Return each measure's difference `score - other` with its interval and a paired test.

    Raises:
        ValueError: The two are of other benchmarks, protocols or queries.
    """
    if [q.query_id for q in score.queries] != [q.query_id for q in other.queries] or (
        score.benchmark, score.protocol) != (other.benchmark, other.protocol):  # fmt: skip
        raise ValueError(
            "only predictions for the same queries under one protocol can be compared: "
            f"{score.benchmark}/{score.protocol} with {len(score.queries)} queries and "
            f"{other.benchmark}/{other.protocol} with {len(other.queries)}"
        )
    scene_of = _scene_indices(score)
    count = int(scene_of.max(initial=-1)) + 1
    weights = _weights(count, samples, seed)
    swaps = np.random.default_rng(seed + 1).integers(0, 2, (samples, count)).astype(float)
    theirs = {measure.name: measure for measure in other.measures}
    found = {}
    for ours in score.measures:
        against = theirs[ours.name]
        low, high = _ends(
            _resampled(ours, scene_of, weights) - _resampled(against, scene_of, weights)
        )
        found[ours.name] = Difference(
            difference=ours.value - against.value,
            low=low,
            high=high,
            p_value=_p_value(ours, against, scene_of, swaps),
        )
    return found


def _p_value(
    ours: Measure, theirs: Measure, scene_of: Int64[np.ndarray, " N"], swaps: np.ndarray
) -> float:
    a, b = _by_scene(ours, scene_of), _by_scene(theirs, scene_of)
    total_a, total_b = a.sum(axis=0), b.sum(axis=0)
    moved = swaps @ (b - a)
    differences = ours.scale * (ours.reduce(total_a + moved) - ours.reduce(total_b - moved))
    seen = abs(ours.value - theirs.value)
    # The identity permutation counts, so that the p-value is never 0.
    return float((1 + np.sum(np.abs(differences) >= seen - 1e-9)) / (1 + len(differences)))


def _resampled(
    measure: Measure, scene_of: Int64[np.ndarray, " N"], weights: Float64[np.ndarray, "B G"]
) -> Float64[np.ndarray, " B"]:
    """Return the measure of each resample; NaN for one without a query, or of a single scene."""
    if weights.shape[1] < 2:
        return np.full(len(weights), np.nan)
    return np.asarray(measure.scale * measure.reduce(weights @ _by_scene(measure, scene_of)))


def _ends(drawn: Float64[np.ndarray, " B"]) -> tuple[float, float]:
    """Return the interval's two ends over the resamples that have a number."""
    finite = drawn[np.isfinite(drawn)]
    if not len(finite):
        return np.nan, np.nan
    low, high = np.percentile(finite, [LOW, HIGH])
    return float(low), float(high)


def _by_scene(measure: Measure, scene_of: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, "G S"]:
    sums = np.zeros((int(scene_of.max(initial=-1)) + 1, measure.statistics.shape[1]))
    np.add.at(sums, scene_of, measure.statistics)
    return sums


def _scene_indices(score: Score) -> Int64[np.ndarray, " N"]:
    order = {scene: i for i, scene in enumerate(dict.fromkeys(q.scene_id for q in score.queries))}
    return np.array([order[query.scene_id] for query in score.queries], dtype=np.int64)


def _weights(count: int, samples: int, seed: int) -> Float64[np.ndarray, "B G"]:
    if count == 0:
        return np.zeros((samples, 0))
    share = np.full(count, 1 / count)
    return np.random.default_rng(seed).multinomial(count, share, size=samples).astype(float)


def _mean_statistics(
    values: Float64[np.ndarray, " N"], mask: Bool[np.ndarray, " N"]
) -> Float64[np.ndarray, "N 2"]:
    return np.stack([np.where(mask, values, 0.0), mask.astype(float)], axis=1)


def _mean(totals: Float64[np.ndarray, "... 2"]) -> Float64[np.ndarray, "..."]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(totals[..., 0] / totals[..., 1])
