"""What handing out units costs: Ray against the same units' own time.

    python tests/benchmarks/bench_runner.py [UNITS] [SECONDS_A_UNIT]

As a plain test it runs tiny: `pytest tests/benchmarks/bench_runner.py`.
"""

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))


def measure(units: int, unit_s: float, workers: int = 2) -> dict[str, float]:
    """Return the wall time per unit beyond the unit's own, with nothing stored, seconds."""
    import ray
    import synthetic_unit
    from ray import cloudpickle

    from vega3d.cluster.ray_runner import run_ray
    from vega3d.pipeline.config import RunConfig
    from vega3d.pipeline.runners import run_inline

    cloudpickle.register_pickle_by_value(synthetic_unit)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    config = RunConfig(runner="ray", workers=workers, cpus_per_worker=1)
    found: dict[str, float] = {"units": units, "unit_s": unit_s, "workers": workers}
    with tempfile.TemporaryDirectory() as folder:
        plan, worker = synthetic_unit.make_worker(folder, units, scenes_per_shard=1)
        idle = synthetic_unit.StoringNothing(worker.store, worker.num_views, delay_s=unit_s)
        runs = {"inline": (run_inline, 1), "ray": (partial(run_ray, config=config), workers)}
        for name, (run, share) in runs.items():
            results = run(idle, plan.units)
            first = [next(results) for _ in range(share)]  # every actor is up
            start = time.monotonic()
            rest = list(results)
            assert len(first) + len(rest) == units
            took = (time.monotonic() - start) * share / len(rest)
            found[f"{name}_overhead_ms"] = 1000 * (took - unit_s)
            found[f"{name}_overhead_percent"] = 100 * (took / unit_s - 1)
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(synthetic_unit)
    return found


@pytest.mark.slow
@pytest.mark.ray
def test_bench_runner_runs() -> None:
    assert measure(8, 0.01)["ray_overhead_ms"] < 1000


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), float(sys.argv[2])), indent=2))
