"""The actor in this process: what it does before its first unit, and what it says meanwhile."""

import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from synthetic_unit import SyntheticWorker, make_plan, make_store

from vega3d.cluster import actor
from vega3d.cluster.actor import Worker
from vega3d.pipeline.results import ComputedUnit
from vega3d.pipeline.store.units import Unit


class Loading(SyntheticWorker):
    """Has a model that takes its time, or cannot be loaded, and scenes that must be read."""

    steps: list[str]
    may_load: threading.Event
    error: Exception | None = None

    def prepare(self) -> None:
        self.steps.append("loading")
        self.may_load.wait(20)
        if self.error:
            raise self.error
        self.steps.append("loaded")

    def compute(
        self, unit: Unit, beat: object, computing: AbstractContextManager[object], limit_s: float
    ) -> ComputedUnit:
        self.steps.append("read")
        self.may_load.set()
        with computing:
            self.steps.append("computing")
        return super().compute(unit)


def loading(tmp_path: Path) -> tuple[Loading, Unit]:
    plan = make_plan(2)
    worker = Loading(make_store(str(tmp_path / "s"), plan), {s.scene_id: 2 for s in plan.scenes})
    worker.steps, worker.may_load = [], threading.Event()
    return worker, plan.units[0]


def until(worker: Loading, step: str) -> None:
    end = time.monotonic() + 10
    while step not in worker.steps and time.monotonic() < end:
        time.sleep(0.005)


def test_a_worker_whose_gpu_failed_ends_and_one_with_a_bug_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(actor, "_end", lambda: ended.append(True))
    worker, unit = loading(tmp_path)
    worker.may_load.set()
    for error in (torch.AcceleratorError("CUDA error: ECC"), RuntimeError("a bug")):
        monkeypatch.setattr(worker, "commit", lambda *_, error=error: raised(error), raising=False)
        with pytest.raises(type(error)):
            Worker(worker, 60.0).run(unit)
    assert ended == [True]


def raised(error: Exception) -> None:
    raise error


@pytest.mark.slow
def test_the_model_is_loaded_while_the_first_scene_is_read(tmp_path: Path) -> None:
    worker, unit = loading(tmp_path)
    actor = Worker(worker, 60.0)
    until(worker, "loading")
    time.sleep(0.05)
    assert actor.silent_s() > 0.04  # who hangs while loading is silent as well
    result = actor.run(unit)
    assert worker.steps == ["loading", "read", "loaded", "computing"]
    assert result.worker.count(":") == 1
    assert actor.silent_s() == 0


def test_a_model_that_cannot_be_loaded_is_the_first_units_to_tell(tmp_path: Path) -> None:
    worker, unit = loading(tmp_path)
    worker.error = ZeroDivisionError("no such weights")
    actor = Worker(worker, 60.0)
    until(worker, "loading")
    assert actor.run(unit).scenes == 2  # of a worker without a model
    assert worker.steps == ["loading", "read", "computing"]
