"""LIBERO: success of a policy's rollouts, by suite and task, with Wilson intervals."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vega3d.evaluate.benchmarks.files import Record, read_records
from vega3d.evaluate.benchmarks.measures import OVERALL, Measure, Query, Score
from vega3d.pipeline.errors import UsageError

ANNOTATED = False
PROTOCOLS: tuple[str, ...] = ("official",)
"""Success of a suite is the mean over its episodes (every task has as many); the overall number is
the mean over suites, as the published tables have it."""

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90", "picking")
"""LIBERO's, and last the small table of this package (`train/robots/picking.py`)."""


def score(annotations: str | Path, predictions: str | Path, protocol: str = "official") -> Score:
    """Score a file of episodes.

    Args:
        annotations: "" (an episode carries its own truth).
        predictions: Records with `suite`, `task`, `episode` and `success` (true or false).
        protocol: `official`.

    Raises:
        UsageError: The file is malformed; the message has line and field.

    Source: Liu et al., LIBERO, NeurIPS 2023 Datasets and Benchmarks.
    """
    del annotations
    records = read_records(predictions)
    queries = tuple(_query(record) for record in records)
    if len({query.query_id for query in queries}) != len(queries):
        raise UsageError(f"{predictions}: an episode of a task occurs twice")
    suites = [query.kind for query in queries]
    worth = np.array([query.worth for query in queries])
    present = [suite for suite in SUITES if suite in suites]
    statistics = np.concatenate(
        [
            np.stack([np.where(mask, worth, 0.0), mask.astype(float)], axis=1)
            for mask in (np.array([each == suite for each in suites]) for suite in present)
        ],
        axis=1,
    )
    groups = {OVERALL: range(len(present))} | {s: [i] for i, s in enumerate(present)}
    measures = tuple(
        Measure(
            metric="success",
            group=group,
            statistics=statistics,
            reduce=partial(_mean_of_means, suites=tuple(where)),
        )
        for group, where in groups.items()
    )
    return Score(benchmark="libero", protocol=protocol, queries=queries, measures=measures)


def wilson(successes: int, episodes: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the interval of a success rate, in [0, 1]; (0, 1) where there is no episode.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    if episodes == 0:
        return 0.0, 1.0
    rate, spread = successes / episodes, z * z / episodes
    middle = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / episodes + spread / (4 * episodes)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _query(record: Record) -> Query:
    suite, success = record.text("suite"), record.fields.get("success")
    if suite not in SUITES:
        raise UsageError(f"{record.where}: suite must be one of {SUITES}, got {suite!r}")
    if not isinstance(success, bool):
        raise UsageError(f"{record.where}: success must be true or false, got {success!r}")
    task = record.text("task")
    return Query(
        query_id=f"{suite}/{task}/{record.text('episode')}",
        scene_id=f"{suite}/{task}",
        kind=suite,
        question=task,
        truth="success",
        answer="success" if success else "failure",
        worth=float(success),
    )


def _mean_of_means(totals: np.ndarray, suites: Sequence[int]) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((totals[..., 0::2] / totals[..., 1::2])[..., list(suites)].mean(axis=-1))
