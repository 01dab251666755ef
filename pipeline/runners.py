"""Runners: what hands units to a worker; here the one of this process, the reference for others."""

import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vega3d.pipeline.attempts import Attempts
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.errors import TransientError
from vega3d.pipeline.next_unit import NextUnit
from vega3d.pipeline.results import UnitResult, postponed
from vega3d.pipeline.scenes.scene import SceneSource
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.store.writer import StoreWriter
from vega3d.pipeline.texts import without_secrets

if TYPE_CHECKING:
    from vega3d.pipeline.prepared import PreparedModel
    from vega3d.pipeline.reading_ahead import UnitReading

T = TypeVar("T")

_log = logging.getLogger(__name__)


class UnitWorker(Protocol):
    """What a runner hands units to: one store's writer, or that of several."""

    source: SceneSource

    @property
    def stores(self) -> Sequence[StoreWriter]:
        """Where it writes."""
        ...

    @property
    def models(self) -> "Sequence[PreparedModel]":
        """What it runs."""
        ...

    def __call__(self, unit: Unit, limit_s: float = math.inf) -> UnitResult:
        """Compute a unit and commit it."""
        ...

    def prepare(self) -> None:
        """Load what the first unit needs, ahead of it."""
        ...

    def compute(
        self,
        unit: Unit,
        beat: Callable[[], None] = ...,
        computing: AbstractContextManager[object] = ...,
        limit_s: float = ...,
        next_unit: NextUnit | None = ...,
    ) -> Any:  # noqa: ANN401 - what its own `commit` takes
        """Decode and encode the scenes of a unit."""
        ...

    def read(
        self, unit: Unit, beat: Callable[[], None] = ..., limit_s: float = ...
    ) -> "UnitReading":
        """Begin to read the scenes of a unit."""
        ...

    def commit(self, unit: Unit, computed: Any) -> UnitResult:  # noqa: ANN401
        """Write a computed unit's shards and its commit record."""
        ...

    def give_up(self, unit: Unit, reason: str) -> UnitResult:
        """Record the scenes of a unit that no worker could finish as failed with this reason."""
        ...


Runner = Callable[[UnitWorker, Sequence[Unit]], Iterator[UnitResult]]


def run_inline(
    worker: UnitWorker,
    units: Sequence[Unit],
    config: RunConfig = RunConfig(),  # noqa: B008 - frozen
) -> Iterator[UnitResult]:
    """Do the units one after the other in this process: the reference for every other runner.

    A unit is stored, and the next one's first scenes read, while one is computed. One whose cause
    may pass is tried again after the others, and is postponed in the end.
    """
    attempts = Attempts(config.attempts, config.unit_timeout_s)
    waiting = deque(units)
    next_unit = NextUnit(worker, config.unit_timeout_s, waiting)
    storing: tuple[Unit, Future[UnitResult]] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="storing") as beside, closing(next_unit):
        while waiting or storing:
            unit = waiting.popleft() if waiting else None
            before, storing = storing, None
            if unit is not None and attempts.exhausted:
                yield postponed(unit, attempts.told(unit))
            elif unit is not None:
                limit_s = config.unit_timeout_s
                compute = partial(worker.compute, unit, limit_s=limit_s, next_unit=next_unit)
                computed, again = _tried(unit, compute, attempts)
                if computed is None:
                    yield from _again(unit, again, waiting, attempts)
                else:
                    storing = unit, beside.submit(worker.commit, unit, computed)
            if before is not None:
                result, again = _tried(before[0], before[1].result, attempts)
                if result is None:
                    yield from _again(before[0], again, waiting, attempts)
                else:
                    attempts.succeeded()
                    step_aside(result, waiting)
                    yield result


def step_aside(result: UnitResult, waiting: deque[Unit]) -> None:
    """Go on somewhere else where another job does the same units in the same order.

    All jobs of a store begin with its first uncommitted unit. The one that comes second finds a
    unit committed by the other, and takes what is left from a random place on: else the two would
    do every unit twice, one behind the other.
    """
    if result.by_others and waiting:
        waiting.rotate(random.randrange(len(waiting)))  # decides no byte: any order ends alike


def _tried(unit: Unit, step: Callable[[], T], attempts: Attempts) -> tuple[T | None, bool]:
    """Return what a step gives; None where its cause may pass, and whether to try again."""
    try:
        return step(), False
    except TransientError as error:
        told = without_secrets(str(error))
        _log.warning("unit %d: %s", unit.index, told)
        return None, attempts.failed(unit, told)


def _again(
    unit: Unit, again: bool, waiting: deque[Unit], attempts: Attempts
) -> Iterator[UnitResult]:
    """Put a unit behind the others, or yield it as postponed."""
    if not again:
        yield postponed(unit, attempts.told(unit))
        return
    waiting.append(unit)
    time.sleep(attempts.pause_s())
