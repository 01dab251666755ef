"""Ray against the inline runner: the same bytes, whatever dies, hangs or fails on the way."""

import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray
import small_captures
import synthetic_unit
from synthetic_unit import make_worker

from vega3d.cluster import ray_runner, room
from vega3d.cluster.ray_runner import run_ray
from vega3d.pipeline import open_store, read_scenes
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.errors import StoreError, UsageError
from vega3d.pipeline.extract import extract
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.writer import uncommitted

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
SCENES = 10
BAD = "hall/004 \u00fc"


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    plan, worker = make_worker(str(tmp_path_factory.mktemp("inline") / "s"), SCENES)
    list(run_inline(worker, plan.units))
    merge_commits(worker.store)
    return open_store(worker.store.url).digest()


def config(**settings: object) -> RunConfig:
    defaults = {"runner": "ray", "workers": 2, "cpus_per_worker": 0.5}
    return RunConfig(**{**defaults, **settings})


def run(url: Path, settings: RunConfig | None = None, **faults: object) -> list[int]:
    plan, worker = make_worker(str(url), SCENES, **faults)
    units = uncommitted(worker.store, plan)
    results = list(run_ray(worker, units, settings or config()))
    merge_commits(worker.store)
    return sorted(result.unit for result in results)


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_stores_the_same_bytes_as_inline(tmp_path: Path, digest: str, workers: int) -> None:
    assert run(tmp_path / "s", config(workers=workers)) == [0, 1, 2, 3, 4]
    assert open_store(str(tmp_path / "s")).digest() == digest


def test_the_real_backbone_stores_the_same_bytes_on_ray(tmp_path: Path, tiny_wan: Path) -> None:
    """Decoding, VAE, blocks, pooling and geometry: inline against actors, byte for byte."""
    source = read_scenes("rooms:3?views=3&height=96&width=128")
    wanted = ExtractConfig(
        backbone=WanConfig(model=str(tiny_wan), resolution=(96, 128), timesteps=(300, 100)),
        scenes_per_shard=1,
    )
    # One worker: each loads torch and the model's classes, eight seconds of a core.
    runners = {"inline": run_inline, "ray": partial(run_ray, config=config(workers=1))}
    digests = {
        name: extract(
            source, str(tmp_path / name), wanted, numerics=Numerics(threads=2), run=runner
        ).digest
        for name, runner in runners.items()
    }
    assert digests["ray"] == digests["inline"]


def test_a_job_that_meets_another_goes_on_elsewhere(
    tmp_path: Path, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both begin with the first unit; in the same order they would do each unit twice."""
    plan, worker = make_worker(str(tmp_path / "s"), SCENES)
    list(run_inline(worker, plan.units[:1]))  # by the other job, meanwhile
    monkeypatch.setattr(random, "randrange", lambda end: end - 1)
    done = [result.unit for result in run_ray(worker, plan.units, config(workers=1))]
    assert sorted(done) == [0, 1, 2, 3, 4]
    assert 2 in done[-2:], done  # 0 and 1 were in flight; two are at a time
    merge_commits(worker.store)
    assert open_store(str(tmp_path / "s")).digest() == digest


def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path, digest: str) -> None:
    assert run(tmp_path / "s", kill_on=(BAD,), marks=str(tmp_path)) == [0, 1, 2, 3, 4]
    assert open_store(str(tmp_path / "s")).digest() == digest


def test_a_unit_that_kills_every_worker_is_quarantined_and_its_neighbours_are_not(
    tmp_path: Path,
) -> None:
    run(tmp_path / "s", config(workers=1, attempts=2), kill_on=(BAD,))
    store = open_store(str(tmp_path / "s"))
    assert set(store.failures) == {BAD, "hall/005 \u00fc"}  # the scenes of its unit
    assert "died or hung at every attempt" in store.failures[BAD]
    assert "--retry-failed" in store.failures[BAD]
    assert len(store.scene_ids) == SCENES - 2


def test_a_hanging_worker_is_restarted(
    tmp_path: Path, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_runner, "POLL_S", 0.5)
    run(tmp_path / "s", config(workers=1, unit_timeout_s=3), hang_on=(BAD,), marks=str(tmp_path))
    assert open_store(str(tmp_path / "s")).digest() == digest


def test_a_bug_stops_the_run_and_names_the_unit(tmp_path: Path, digest: str) -> None:
    """Of two units that a worker has in hand one may be on its way to the store: it is redone."""
    with pytest.raises(ZeroDivisionError, match="a bug at hall/004") as caught:
        run(tmp_path / "s", config(workers=1), bug_on=(BAD,))
    assert any("unit 2" in note for note in caught.value.__notes__)
    redone = run(tmp_path / "s", config(workers=1))
    assert {2, 4} <= set(redone)  # and 3, unless it was in hand beside 2
    assert not {0, 1} <= set(redone)
    assert open_store(str(tmp_path / "s")).digest() == digest


@pytest.mark.parametrize("fault", ["away_on", "refused_on"])
def test_trouble_of_one_worker_does_not_end_the_run(
    tmp_path: Path, digest: str, fault: str
) -> None:
    """A server that does not answer, a store that one node may not write: tried again."""
    faults = {fault: (BAD,), "marks": str(tmp_path)}
    assert run(tmp_path / "s", config(workers=1), **faults) == [0, 1, 2, 3, 4]
    assert open_store(str(tmp_path / "s")).digest() == digest


def test_what_does_not_answer_is_left_to_the_next_run(tmp_path: Path, digest: str) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), SCENES, away_on=(BAD,))
    results = list(run_ray(worker, plan.units, config(workers=1)))
    (left,) = [result for result in results if result.postponed]
    assert left.left == plan.units[2].scene_ids
    assert left.postponed == f"{BAD}: the server is not reached; tried 3 times"
    assert open_store(str(tmp_path / "s")).failures == {}
    assert run(tmp_path / "s", config(workers=1)) == [2]
    assert open_store(str(tmp_path / "s")).digest() == digest


def test_a_store_that_no_worker_may_write_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write: Permission denied"):
        run(tmp_path / "s", config(workers=1), refused_on=(BAD,))


def test_failed_scenes_are_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    assert run(tmp_path / "s", config(workers=1), fail_on=(BAD,)) == [0, 1, 2, 3, 4]
    assert open_store(str(tmp_path / "s")).failures == {BAD: "the JPEG is truncated"}


def test_a_place_that_workers_do_not_see_is_refused_before_the_first_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative --out with a cluster that was started in another folder."""
    monkeypatch.chdir(tmp_path)
    plan, worker = make_worker("s", SCENES)
    worker.store = replace(worker.store, url="s")  # as it was before places became absolute
    with pytest.raises(UsageError, match=r"no worker can do this run: on node .*, s is not there"):
        list(run_ray(worker, plan.units, config()))
    assert not list((tmp_path / "s").rglob("*.json")) or not open_store("s").records


def test_what_changed_in_a_source_is_computed_anew_on_ray(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store becomes that of the captures of now, and the workers note how these look."""
    captures = small_captures.write_captures(tmp_path / "captures")
    small_captures.run(captures, tmp_path / "s")
    small_captures.move_poses(captures, "b")
    on_ray = partial(run_ray, config=config(workers=1))
    again = small_captures.run(captures, tmp_path / "s", refresh=True, runner=on_ray)
    assert (again.units_this_run, again.changed, again.unwatched) == (1, {}, 0)
    fresh = small_captures.run(captures, tmp_path / "whole")
    assert open_store(str(tmp_path / "s")).digest() == fresh.digest
    shutil.rmtree(captures / "c" / "depth")
    caplog.clear()
    small_captures.run(captures, tmp_path / "lacking", runner=on_ray)
    looked = small_captures.run(captures, tmp_path / "lacking")
    assert (looked.changed, looked.unwatched) == ({}, 0)
    assert "c: has no depth: its tokens get no positions" in caplog.text  # read by a worker


def test_a_cluster_with_no_free_place_says_so_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Others hold every CPU: it is told what is waited for, and for how long."""

    class Idle:  # inside: pickled whole, for workers do not find a test's module
        def ping(self) -> None:
            """Answer, so that it is known to be there."""

    monkeypatch.setattr(room, "FIRST_TOLD_S", 0.5)
    held = [ray.remote(Idle).options(num_cpus=1).remote() for _ in range(2)]
    ray.get([actor.ping.remote() for actor in held])
    start = time.monotonic()
    try:
        told = (
            r"within 3 s \(--wait-s\): a worker wants 0.5 CPUs, and 0 of the cluster's 2 are free"
        )
        with pytest.raises(UsageError, match=told):
            run(tmp_path / "s", config(wait_s=3.0))
    finally:
        for actor in held:
            ray.kill(actor)
    assert time.monotonic() - start < 30
    assert "no worker is up yet: a worker wants 0.5 CPUs, and 0 of" in caplog.text
    assert not open_store(str(tmp_path / "s")).records


def test_more_than_this_machine_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"4 workers want 4 CPUs and Ray has 2.*--cpus-per-worker"):
        run(tmp_path / "s", config(workers=4, cpus_per_worker=1))


def test_a_killed_driver_leaves_a_store_that_goes_on(tmp_path: Path, digest: str) -> None:
    """SIGKILL to the driver with its own Ray; its orphans may still be writing."""
    support = Path(synthetic_unit.__file__).parent
    script = (
        "import sys; from ray import cloudpickle; import synthetic_unit;"
        "cloudpickle.register_pickle_by_value(synthetic_unit);"
        "from synthetic_unit import make_worker;"
        "from vega3d.pipeline.config import RunConfig;"
        "from vega3d.cluster.ray_runner import run_ray;"
        f"plan, worker = make_worker(sys.argv[1], {SCENES}, delay_s=0.3);"
        "[print(r.unit, flush=True) for r in run_ray(worker, plan.units,"
        " RunConfig(runner='ray', workers=2, cpus_per_worker=0.5))]"
    )
    environment = {**os.environ, "PYTHONPATH": str(support)}
    driver = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "s")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert driver.stdout is not None
    driver.stdout.readline()  # one unit is committed
    driver.kill()
    driver.wait(10)
    driver.stdout.close()
    done = len(open_store(str(tmp_path / "s")).records)
    assert 1 <= done < 5
    run(tmp_path / "s")
    time.sleep(1)
    assert open_store(str(tmp_path / "s")).digest() == digest
