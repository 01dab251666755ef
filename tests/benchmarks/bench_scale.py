"""Many units: what a resume, a status and the runner itself cost.

    python tests/benchmarks/bench_scale.py [UNITS]    # 10,000 by default
    python tests/benchmarks/bench_scale.py --views 32 [UNITS]
    python tests/benchmarks/bench_scale.py --scenes 100000
    python tests/benchmarks/bench_scale.py --committed 100000 FOLDER

The first writes a store of so many units (one scene each, no model) below /dev/shm and measures the
resume scan, opening and `status`. The second does so with scenes of so many views: one unit is
written, the others' records and moments are copies of it under other names. The third makes a
store of so many planned scenes and commits none: planning, creating, opening, `status`. The fourth
commits them all, in units of 64 (once: a FOLDER that has them is only measured, one that has a part
goes on), and measures what every user of a large store does first: opening, `status`, `verify`, the
planning of a report, the start of a loader.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from synthetic_unit import TAPS, make_plan, make_store, make_worker, scene_arrays

from vega3d.evaluate.config import ReportConfig
from vega3d.evaluate.sources import open_sources, plan_comparison
from vega3d.evaluate.units import plan_tasks
from vega3d.pipeline import open_store
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.scene import SceneEntry
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.objects import open_objects
from vega3d.pipeline.store.records import Records
from vega3d.pipeline.store.verify import status, verify
from vega3d.pipeline.store.writer import uncommitted
from vega3d.train.config import TrainConfig
from vega3d.train.loader import Loader
from vega3d.train.pairing import pair_stores
from vega3d.train.rundir import plan_run


def timed(what: str, work: Callable[[], object], times: int = 3) -> float:
    """Say and return the best of some, seconds, and the peak of this process so far."""
    took_s, cpu_s = [], []
    for _ in range(times):
        start, used = time.monotonic(), time.process_time()
        work()
        took_s.append(time.monotonic() - start)
        cpu_s.append(time.process_time() - used)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = " ".join(f"{seconds:.2f}" for seconds in took_s)
    sys.stdout.write(f"{what}: {told} s, CPU {min(cpu_s):.2f} s, peak {peak_mb:.0f} MB\n")
    sys.stdout.flush()
    return min(took_s)


def units_written(root: Path, units: int) -> dict[str, float]:
    """Measure on a store of which all units are committed but the last."""
    plan, worker = make_worker(str(root / "s"), units, scenes_per_shard=1)
    start = time.monotonic()
    for _result in run_inline(worker, plan.units[:-1]):
        pass
    found = {"write_s_a_unit": (time.monotonic() - start) / units}
    sys.stdout.write(f"written: {1000 * found['write_s_a_unit']:.1f} ms a unit\n")
    found["scan_before_merge_s"] = timed(
        "resume scan, nothing merged", lambda: uncommitted(worker.store, plan)
    )
    list(run_inline(worker, uncommitted(worker.store, plan)))
    start = time.monotonic()
    merge_commits(worker.store)
    sys.stdout.write(f"merge at the end: {time.monotonic() - start:.2f} s\n")
    found["scan_s"] = timed("resume scan", lambda: uncommitted(worker.store, plan))
    found["open_s"] = timed("open_store", lambda: open_store(str(root / "s")))
    found["status_s"] = timed("status", lambda: status(str(root / "s")))
    return found


def units_copied(root: Path, units: int, views: int) -> dict[str, float]:
    """Measure on a store of which all units are committed, none merged."""
    names = [f"scene{index:05d}_00" for index in range(units)]
    entries = [SceneEntry(scene_id=name, num_views=views, size_bytes=1) for name in names]
    plan = plan_units(entries, num_views=views, scenes_per_shard=1)
    store = make_store(str(root / "s"), plan)
    arrays = scene_arrays(names[0], views)
    intrinsics = np.tile(np.eye(3), (views, 1, 1))
    arrays = replace(arrays, view_ids=[f"{v:06d}" for v in range(views)], intrinsics=intrinsics)
    first = store.write_unit(plan.units[0], [arrays], {"torch": "2"})
    moments, records = store.layout.find("moments"), Records(open_objects(store.url))
    raw = (root / "s" / moments.file_key(0)).read_bytes()
    for unit in plan.units[1:]:
        objects = {
            store.layout.find(key.split("/")[0]).file_key(unit.index): entry
            for key, entry in first.objects.items()
        }
        scene = replace(first.scenes[0], scene_id=unit.scene_ids[0], row=unit.first_row)
        record = replace(first, unit=unit.index, objects=objects, scenes=[scene], digest="")
        (root / "s" / records.key(unit.index, 0)).write_bytes(record.to_json())
        (root / "s" / moments.file_key(unit.index)).write_bytes(raw)
    found = {"scan_before_merge_s": timed("resume scan", lambda: uncommitted(store, plan))}
    start, used = time.monotonic(), time.process_time()
    merge_commits(store)
    found["merge_s"], cpu_s = time.monotonic() - start, time.process_time() - used
    sys.stdout.write(f"merge: {found['merge_s']:.2f} s, CPU {cpu_s:.2f} s\n")
    found["scan_s"] = timed("resume scan with an index", lambda: uncommitted(store, plan))
    found["open_s"] = timed("open_store", lambda: open_store(str(root / "s")))
    found["status_s"] = timed("status", lambda: status(str(root / "s")))
    return found


def test_the_benchmark_runs_on_few_units(tmp_path: Path) -> None:
    assert units_copied(tmp_path, 3, 2)["merge_s"] > 0


def scenes_planned(root: Path, scenes: int) -> dict[str, float]:
    """Measure on a store of which nothing is committed."""
    start = time.monotonic()
    plan = make_plan(scenes, scenes_per_shard=8)
    planned_s = time.monotonic() - start
    store = make_store(str(root / "s"), plan)
    created_s = time.monotonic() - start - planned_s
    sys.stdout.write(f"plan {planned_s:.2f} s, create {created_s:.2f} s\n")
    return {
        "plan_s": planned_s,
        "create_s": created_s,
        "scan_s": timed("resume scan", lambda: uncommitted(store, plan)),
        "open_s": timed("open_store", lambda: open_store(str(root / "s"))),
        "status_s": timed("status", lambda: status(str(root / "s"))),
    }


def scenes_committed(root: Path, scenes: int) -> dict[str, float]:
    """Measure on a store of which all is committed."""
    url = str(root / "s")
    plan, worker = make_worker(url, scenes, scenes_per_shard=64)
    left = uncommitted(worker.store, plan)
    start, used = time.monotonic(), time.process_time()
    for _result in run_inline(worker, left):
        pass
    if left:
        written_s, cpu_s = time.monotonic() - start, time.process_time() - used
        sys.stdout.write(f"{len(left)} units written: {written_s:.1f} s, CPU {cpu_s:.1f} s\n")
        timed("merge", lambda: merge_commits(worker.store), times=1)
    config = TrainConfig(tasks=("depth",), views_per_sample=2)
    return {
        "scan_s": timed("resume scan", lambda: uncommitted(worker.store, plan)),
        "open_s": timed("open_store", lambda: open_store(url)),
        "status_s": timed("status", lambda: status(url)),
        "report_s": timed("report: open and plan all tasks", lambda: tasks_of(url)),
        "loader_s": timed("loader: pair, split, first batch", lambda: first_batch(url, config), 1),
        "verify_s": timed("verify", lambda: verify(url), times=1),
    }


def tasks_of(url: str) -> list[str]:
    """Return the names of a report's first pass, as it plans them."""
    comparison = plan_comparison(open_sources([f"a={url}", f"b={url}"]))
    config = ReportConfig()
    return [
        task.key("sums")
        for source in comparison.sources
        for task in plan_tasks(source, comparison, config)
    ]


def first_batch(url: str, config: TrainConfig) -> object:
    """Return what a trainer steps on first."""
    pairing = pair_stores(url, url, prior_tap=TAPS[0], semantic_tap=TAPS[1])
    plan = plan_run(pairing, config)
    loader = Loader(pairing, min_depth_share=config.min_depth_share, workers=0)
    return next(loader.batches([plan.order.samples(0, 4)]))


def test_committed_scenes_are_measured(tmp_path: Path) -> None:
    assert scenes_committed(tmp_path, 12)["loader_s"] > 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--committed"]:
        scenes_committed(Path(sys.argv[3]), int(sys.argv[2]))
        sys.exit()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as place:
        if sys.argv[1:2] == ["--scenes"]:
            scenes_planned(Path(place), int(sys.argv[2]))
        elif sys.argv[1:2] == ["--views"]:
            count = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
            units_copied(Path(place), count, int(sys.argv[2]))
        else:
            units_written(Path(place), int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
