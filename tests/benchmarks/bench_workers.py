"""Many workers: what handing out units costs with real Ray actors that sleep instead of computing.

    python tests/benchmarks/bench_workers.py [WORKERS [UNITS [SECONDS_A_UNIT]]]    # 64 640 10

Each actor has a GPU that is none, sleeps, and stores the unit through the real writer below
/dev/shm; the driver does all that `vega3d-extract run` does with a result (log, progress, metrics).
Told is, of the time in which all workers were up and units were left: how long a worker waited
between two units, over a unit; the driver's CPU time a unit; and its memory as units come in.

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
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import synthetic_unit
from synthetic_unit import SyntheticWorker, make_plan, make_store

from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.worker import ComputedUnit, UnitResult

MB = 1 << 20


class Sleeper(SyntheticWorker):
    """Sleeps as long as a GPU would compute, and tells when and where."""

    def compute(
        self,
        unit: Unit,
        beat: Callable[[], None] = lambda: None,
        computing: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - does nothing
        limit_s: float = float("inf"),
    ) -> ComputedUnit:
        with computing:
            beat()
            computed = ComputedUnit()
            computed.seconds = {"from": time.monotonic()}
            time.sleep(self.delay_s)
            computed.seconds["until"] = time.monotonic()
        computed.scenes = [
            synthetic_unit.scene_arrays(name, self.num_views[name]) for name in unit.todo
        ]
        return computed

    def commit(self, unit: Unit, computed: ComputedUnit) -> UnitResult:
        done = super().commit(unit, computed)
        told = computed.seconds
        return replace(
            done,
            seconds={"compute": told["until"] - told["from"]},
            details={"from": str(told["from"]), "pid": str(os.getpid())},
        )


def measure(workers: int, units: int, unit_s: float) -> dict[str, float]:
    """Return what handing out cost; times in seconds, memory in MB."""
    import ray
    from ray import cloudpickle

    from vega3d.cluster.ray_runner import run_ray
    from vega3d.pipeline.progress import Progress
    from vega3d.pipeline.runlog import RunLog

    cloudpickle.register_pickle_by_value(synthetic_unit)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, num_gpus=workers, include_dashboard=False,
             log_to_driver=False, object_store_memory=100 * MB)  # fmt: skip
    config = RunConfig(runner="ray", workers=workers, cpus_per_worker=0, gpus_per_worker=1)
    driver = psutil.Process()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    marks: list[tuple[float, str, float]] = []
    held: list[float] = []
    started, up_s, at, cpu_s = time.monotonic(), 0.0, 0, 0.0
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        plan = make_plan(units, scenes_per_shard=1)
        views = {scene.scene_id: scene.num_views for scene in plan.scenes}
        sleeper = Sleeper(make_store(f"{folder}/s", plan), views, delay_s=unit_s)
        log, progress = RunLog(f"{folder}/s", {"run": {"workers": workers}}, ""), Progress()
        for result in run_ray(sleeper, plan.units, config):
            log.unit(result)
            progress.show(result, plan.units)
            marks.append((float(result.details["from"]), result.details["pid"], time.monotonic()))
            if not up_s and len({pid for _, pid, _ in marks}) == workers:
                up_s, cpu_s, at = time.monotonic(), sum(driver.cpu_times()[:2]), len(marks)
            held.append(driver.memory_info().rss / MB)
        ended = time.monotonic()
        up_s = up_s or started  # some were never up: the tiny run of a test
        cpu_s = sum(driver.cpu_times()[:2]) - cpu_s
        log.close(None)
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    cloudpickle.unregister_pickle_by_value(synthetic_unit)
    after, last = marks[at:], max(begun for begun, _, _ in marks)
    gaps = waits(marks, up_s, unit_s)
    return {
        "workers": workers, "units": units, "unit_s": unit_s,
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
    found = measure(2, 12, 0.1)
    assert found["wait_ms"] < 1000


if __name__ == "__main__":
    import bench_workers  # what workers are given must not be of the main module

    count, total, each = (*sys.argv[1:], *("64", "640", "10")[len(sys.argv) - 1 :])
    found = bench_workers.measure(int(count), int(total), float(each))
    sys.stdout.write(f"{json.dumps(found, indent=2)}\n")
