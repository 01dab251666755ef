"""End a training by the clock, in such a way that it is one with fewer steps.

The rate is constant until the cool-down, so a run that begins its cool-down because the time is
nearly up makes the same steps as one that was asked for that many.
"""

import logging
import math
import time
from collections import deque
from dataclasses import replace

from vega3d.train.pretrain.config import Recipe
from vega3d.train.processes import Processes

EVERY = 10
"""Steps between two looks at the clock."""

_LOOKS = 20
"""Looks over which the time of a step is measured."""

_log = logging.getLogger(__name__)


class StepLimit:
    """How many steps the time does for, the same in all processes."""

    def __init__(self, ends_s: float, done: int, processes: Processes) -> None:
        """Begin to measure, at a step; `ends_s` is by `time.monotonic`, infinite for no limit."""
        self._ends_s, self._processes = ends_s, processes
        self._looks = deque([(done, time.monotonic())], maxlen=_LOOKS)
        self._is_cooling = False

    def shorten(self, recipe: Recipe, done: int) -> Recipe:
        """Return the recipe, with an earlier end where the time is up or nearly so.

        The cool-down is that of the recipe, yet a third of all steps at most. If steps become
        slower in it, the training ends with it unfinished, and says so.
        """
        if self._ends_s == math.inf or done % EVERY or done == recipe.steps:
            return recipe
        left = self._steps_left(done)
        if left <= 0:
            _log.warning("the time is up: ended at step %d of %d", done, recipe.steps)
            return replace(recipe, steps=done)
        cooldown = min(recipe.cooldown, done // 2)
        if self._is_cooling or left > cooldown + EVERY or done + left >= recipe.steps:
            return recipe
        self._is_cooling = True
        cooldown = max(min(cooldown, left), 1)
        _log.info("the time is nearly up: --steps %d --cooldown %d", done + cooldown, cooldown)
        return replace(recipe, steps=done + cooldown, cooldown=cooldown)

    def _steps_left(self, done: int) -> int:
        """Return for how many steps there is time, as fast as the last ones were."""
        now = time.monotonic()
        step, at_s = self._looks[0]
        self._looks.append((done, now))
        step_s = (now - at_s) / (done - step)
        return int(min(self._processes.gather(math.floor((self._ends_s - now) / step_s))))
