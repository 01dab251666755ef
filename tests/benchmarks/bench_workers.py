"""Many workers: what handing out units costs the driver, with workers that sleep.

    python tests/benchmarks/bench_workers.py [WORKERS [UNITS [SECONDS_A_UNIT [PROCESSES]]]]

64 workers, 640 units of 10 s and 4 processes by default. To the driver each worker is an actor with
a GPU that is none: it is polled, given two units, and answers for itself. So many processes
take more memory and time to start than two cores have, so several workers share one, each with
threads of its own; PROCESSES as many as WORKERS gives each its own. Units sleep and store nothing;
the driver does all that `vega3d-extract run` does with a result (log, progress, metrics). Told is,
of the time in which all workers were up: how long a worker waited between two units, over a unit;
the driver's CPU time a unit; and its memory as units come in.

As a plain test it runs tiny: `pytest tests/benchmarks/bench_workers.py`.
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import synthetic_unit
from synthetic_unit import StoringNothing, make_plan, make_store

from vega3d.cluster.actor import Worker
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.results import ComputedUnit, UnitResult
from vega3d.pipeline.store.units import Unit

MB = 1 << 20


class Sleeper(StoringNothing):
    """Sleeps as long as a GPU would compute, and tells when."""

    def _compute(self, unit: Unit, _beat: Callable[[], None]) -> ComputedUnit:
        began = time.monotonic()
        time.sleep(self.delay_s)
        return ComputedUnit(seconds={"began": began})

    def compute(
        self,
        unit: Unit,
        beat: Callable[[], None] = lambda: None,
        computing: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - does nothing
        limit_s: float = float("inf"),
    ) -> ComputedUnit:
        with computing:
            beat()
            return self._compute(unit, beat)

    def commit(self, unit: Unit, computed: ComputedUnit) -> UnitResult:
        done = super().commit(unit, computed)
        return replace(
            done,
            scenes=len(unit.scene_ids), views=32, scene_ids=unit.scene_ids,
            seconds={"compute": self.delay_s},
            details={"began": str(computed.seconds["began"])},
        )  # fmt: skip


class Host:
    """A process of several workers."""

    def __init__(self, worker: Sleeper, count: int) -> None:
        self._workers = [Worker(worker, 3600.0) for _ in range(count)]

    def run(self, index: int, unit: Unit) -> UnitResult:
        done = self._workers[index].run(unit)
        who = {"who": f"{os.getpid()}/{index}"}
        return replace(done, worker=f"{done.worker}/{index}", details={**done.details, **who})

    def check(self, index: int, seen: dict[str, str]) -> str:
        return self._workers[index].check(seen)

    def silent_s(self, index: int) -> float:
        return self._workers[index].silent_s()


@dataclass
class Hosted:
    """One worker of a host, as `Member` calls its actor."""

    host: Any
    index: int

    def __getattr__(self, name: str) -> "_Call":
        return _Call(getattr(self.host, name), self.index)


@dataclass
class _Call:
    method: Any
    index: int

    def remote(self, *given: object) -> Any:  # noqa: ANN401 - a reference of Ray
        return self.method.remote(self.index, *given)


def hosted(sleeper: Sleeper, workers: int, processes: int) -> list[Hosted]:
    import ray

    each = -(-workers // processes)
    options = {"num_cpus": 0, "num_gpus": each, "max_concurrency": 3 * each}
    hosts = [ray.remote(Host).options(**options).remote(sleeper, each) for _ in range(processes)]
    return [Hosted(hosts[i // each], i % each) for i in range(workers)]


def measure(workers: int, units: int, unit_s: float, processes: int) -> dict[str, float]:
    """Return what handing out cost; times in seconds, memory in MB."""
    import ray
    from ray import cloudpickle

    from vega3d.cluster import member, ray_runner
    from vega3d.pipeline.progress import Progress
    from vega3d.pipeline.runlog import RunLog

    cloudpickle.register_pickle_by_value(synthetic_unit)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, num_gpus=-(-workers // processes) * processes,
             include_dashboard=False, log_to_driver=False, object_store_memory=99 * MB)  # fmt: skip
    config = RunConfig(runner="ray", workers=workers, cpus_per_worker=0, gpus_per_worker=1)
    driver = psutil.Process()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    marks: list[tuple[float, str, float]] = []
    held: list[float] = []
    seen: set[str] = set()
    started, up_s, at, cpu_s = time.monotonic(), 0.0, 0, 0.0
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        plan = make_plan(units, scenes_per_shard=1)
        views = {scene.scene_id: scene.num_views for scene in plan.scenes}
        sleeper = Sleeper(make_store(f"{folder}/s", plan), views, delay_s=unit_s)
        places = iter(hosted(sleeper, workers, processes))
        patch = pytest.MonkeyPatch()
        patch.setattr(member, "new_actor", lambda *_given: next(places))
        patch.setattr(ray_runner, "end_actor", lambda _actor: None)
        log, progress = RunLog(f"{folder}/s", {"run": {"workers": workers}}, ""), Progress()
        for result in ray_runner.run_ray(sleeper, plan.units, config):
            log.unit(result)
            progress.show(result, plan.units)
            marks.append((float(result.details["began"]), result.details["who"], time.monotonic()))
            seen.add(result.details["who"])
            if not up_s and len(seen) == workers:
                up_s, cpu_s, at = time.monotonic(), sum(driver.cpu_times()[:2]), len(marks)
            held.append(driver.memory_info().rss / MB)
        ended = time.monotonic()
        up_s = up_s or started  # some were never up: the tiny run of a test
        cpu_s = sum(driver.cpu_times()[:2]) - cpu_s
        log.close(None)
        patch.undo()
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    cloudpickle.unregister_pickle_by_value(synthetic_unit)
    after, last = marks[at:], max(begun for begun, _, _ in marks)
    gaps = waits(marks, up_s, unit_s)
    return {
        "workers": workers, "units": units, "unit_s": unit_s, "processes": processes,
        "until_all_are_up_s": up_s - started,
        "wait_ms": 1000 * statistics.mean(gaps), "wait_worst_ms": 1000 * max(gaps),
        "overhead_percent": 100 * statistics.mean(gaps) / unit_s,
        "units_per_s": sum(begun > up_s for begun, _, _ in marks) / (last - up_s),
        "ideal_units_per_s": workers / unit_s,
        "driver_cpu_ms_a_unit": 1000 * cpu_s / max(1, len(after)),
        "driver_cpu_share": cpu_s / (ended - up_s),
        "driver_mb_at_first": held[at], "driver_mb_at_half": held[(at + units) // 2],
        "driver_mb_at_last": held[-1],
    }  # fmt: skip


def waits(marks: list[tuple[float, str, float]], since: float, unit_s: float) -> list[float]:
    """Return how long each worker did nothing between two units, both after a time, seconds."""
    by_worker: dict[str, list[float]] = {}
    for begun, pid, _ in sorted(marks):
        if begun > since:
            by_worker.setdefault(pid, []).append(begun)
    return [
        later - before - unit_s
        for begun in by_worker.values()
        for before, later in itertools.pairwise(begun)
    ]


@pytest.mark.slow
@pytest.mark.ray
def test_bench_workers_runs() -> None:
    found = measure(4, 24, 0.1, processes=1)
    assert found["wait_ms"] < 1000


if __name__ == "__main__":
    import bench_workers  # what workers are given must not be of the main module

    given = [*sys.argv[1:], *("64", "640", "10", "4")[len(sys.argv) - 1 :]]
    found = bench_workers.measure(int(given[0]), int(given[1]), float(given[2]), int(given[3]))
    sys.stdout.write(f"{json.dumps(found, indent=2)}\n")
