"""The actor: what runs on a worker's node."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray

from vega3d.cluster.seen import differing, seen_here
from vega3d.pipeline.backbones.gpu_errors import is_lost
from vega3d.pipeline.results import UnitResult
from vega3d.pipeline.runners import UnitWorker
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.texts import start_logging

_LOADING = -1
"""Stands for a unit while the model is loaded."""

_log = logging.getLogger(__name__)


class Worker:
    """The actor: computes one unit at a time, and stores one while it computes the next."""

    def __init__(self, writer: UnitWorker, limit_s: float) -> None:
        """Keep the writer, and load its model while the first unit is on its way."""
        start_logging(logging.WARNING)
        self._writer, self._limit_s = writer, limit_s
        self._computing = threading.Lock()
        self._last_beat: dict[int, float] = {}
        self._waiting: set[int] = set()
        threading.Thread(target=self._prepare, name="loading", daemon=True).start()
        self._name = f"{ray.util.get_node_ip_address()}:{os.getpid()}"

    def run(self, unit: Unit) -> UnitResult:
        """Compute and commit one unit."""

        def beat() -> None:
            self._last_beat[unit.index] = time.monotonic()

        beat()
        try:
            computed = self._writer.compute(unit, beat, self._turn(unit.index, beat), self._limit_s)
            beat()
            return replace(self._writer.commit(unit, computed), worker=self._name)
        except Exception as error:
            if is_lost(error):
                _log.exception("%s: the GPU failed; this worker ends, and another does", self._name)
                _end()  # its unit is tried again elsewhere, as of any worker that dies
            raise
        finally:
            self._last_beat.pop(unit.index, None)

    def _prepare(self) -> None:
        """Load the model beside the reading of the first scene; who computes waits for it.

        What goes wrong is told by the first unit, which tries again.
        """
        with self._computing:
            self._last_beat[_LOADING] = time.monotonic()
            try:
                self._writer.prepare()
            except Exception as error:
                _log.info("the model is not loaded ahead: %r", error)
            finally:
                del self._last_beat[_LOADING]

    def _turn(self, unit: int, beat: Callable[[], None]) -> "_Turn":
        return _Turn(self._computing, self._waiting, unit, beat)

    def check(self, seen: Mapping[str, str]) -> str:
        """Return what this node does not see as the driver does, "" where all is well."""
        return differing(seen, seen_here(self._writer), ray.util.get_node_ip_address())

    def silent_s(self) -> float:
        """Return how long the most silent unit here has shown no sign of life; 0 when idle.

        A unit that waits for another one's computing does not count.
        """
        beats = [beat for unit, beat in self._last_beat.copy().items() if unit not in self._waiting]
        return time.monotonic() - min(beats) if beats else 0.0


def _end() -> None:
    """Leave at once: what is torn down in order would ask the GPU again, and may hang."""
    logging.shutdown()
    os._exit(1)


@dataclass
class _Turn:
    """One unit's turn to compute; who waits for it is not silent."""

    lock: Any
    waiting: set[int]
    unit: int
    beat: Callable[[], None]

    def __enter__(self) -> None:
        self.waiting.add(self.unit)
        self.lock.acquire()
        self.beat()
        self.waiting.discard(self.unit)

    def __exit__(self, *_: object) -> None:
        self.lock.release()
