"""Intervals over rooms and seeds, against what theory says."""

import numpy as np
import pytest
from scipy.stats import norm

from vega3d.train.paper.comparing import GAIN, LOSS, OPEN, difference, estimate


def test_with_one_seed_the_interval_is_that_of_a_mean_over_rooms() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, (1, 400))
    found = estimate(values, 4000)
    error = values.std(ddof=1) / np.sqrt(400)
    low, high = norm.interval(0.95, values.mean(), error)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(low, abs=0.15 * error)
    assert found["high"] == pytest.approx(high, abs=0.15 * error)


def test_seeds_that_differ_widen_the_interval() -> None:
    rooms = np.random.default_rng(1).normal(0.0, 1.0, (1, 200))
    alike = estimate(np.repeat(rooms, 3, axis=0), 2000)
    apart = estimate(rooms + np.array([[-1.0], [0.0], [1.0]]), 2000)
    assert apart["high"] - apart["low"] > 2 * (alike["high"] - alike["low"])


def test_a_room_without_the_number_is_left_out() -> None:
    found = estimate(np.array([[1.0, np.nan, 1.0], [1.0, np.nan, 1.0]]), 200)
    assert (found["mean"], found["low"], found["high"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("gap", "sign", "verdict"),
    [(0.5, 1, GAIN), (-0.5, 1, LOSS), (-0.5, -1, GAIN), (0.0, 1, OPEN)],
)
def test_a_verdict_is_given_where_the_interval_lies_on_one_side(
    gap: float, sign: int, verdict: str
) -> None:
    rng = np.random.default_rng(2)
    theirs = rng.normal(size=(3, 50))
    noise = rng.normal(size=(3, 50))
    ours = theirs + gap + 0.1 * (noise - noise.mean(axis=1, keepdims=True))
    assert difference(ours, theirs, sign, 500)["verdict"] == verdict
