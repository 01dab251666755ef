"""Ending by the clock: the run is one with fewer steps, and says which."""

import dataclasses
import itertools
import logging
import math
import re
import time
from pathlib import Path

import pytest
import torch

from vega3d.train.pretrain.config import PretrainRun, Recipe, SemanticConfig
from vega3d.train.pretrain.limit import EVERY, StepLimit
from vega3d.train.pretrain.semantic import pretrain_semantic
from vega3d.train.processes import Processes

ALONE = Processes(0, 1, torch.device("cpu"))
RECIPE = Recipe(steps=1000, cooldown=200, lr=1e-3)


def test_without_a_limit_the_recipe_stays() -> None:
    limit = StepLimit(math.inf, 0, ALONE)
    assert all(limit.shorten(RECIPE, done) is RECIPE for done in range(1, 100))


def test_when_the_time_is_up_the_step_is_the_last(caplog: pytest.LogCaptureFixture) -> None:
    limit = StepLimit(time.monotonic() - 1, 0, ALONE)
    assert limit.shorten(RECIPE, EVERY - 1) is RECIPE
    assert limit.shorten(RECIPE, EVERY).steps == EVERY
    assert "the time is up: ended at step 10 of 1000" in caplog.text


def test_the_cooldown_begins_where_the_time_just_does_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second a step and 600 seconds: 400 steps at the full rate, 200 of cool-down."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    limit, recipe, done = StepLimit(600.0, 0, ALONE), RECIPE, 0
    while done < recipe.steps:
        done += 1
        monkeypatch.setattr(time, "monotonic", lambda now=float(done): now)
        recipe = limit.shorten(recipe, done)
    assert abs(done - 600) <= EVERY
    assert recipe.cooldown == 200


@pytest.mark.slow
def test_a_run_ended_by_the_clock_is_the_one_with_that_many_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes on by a second at every look, so that the test takes no notice of load."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    config = SemanticConfig(
        scenes="rooms:4?views=2&height=64&width=96&seed=101",
        choose="rooms:3?views=1&height=64&width=96&seed=102",
        height=64,
        width=96,
        hidden=16,
        ffn_dim=32,
        layers=1,
        heads=2,
        text_layers=1,
        batch=4,
        amp=False,
        recipe=Recipe(steps=100_000, cooldown=20, lr=1e-3, warmup=2),
    )
    run = PretrainRun(device="cpu", max_minutes=0.5, cache=str(tmp_path / "views"))
    with caplog.at_level(logging.INFO):
        ended = pretrain_semantic(str(tmp_path / "ended"), config, run)
    said = re.search(r"--steps (\d+) --cooldown (\d+)", caplog.text)
    assert said
    steps, cooldown = (int(number) for number in said.groups())
    assert ended["steps"] == steps
    same = dataclasses.replace(config.recipe, steps=steps, cooldown=cooldown)
    pretrain_semantic(
        str(tmp_path / "asked"),
        dataclasses.replace(config, recipe=same),
        dataclasses.replace(run, max_minutes=0),
    )
    name = f"siglip/checkpoint-{steps:08d}.safetensors"
    assert (tmp_path / "ended" / name).read_bytes() == (tmp_path / "asked" / name).read_bytes()
