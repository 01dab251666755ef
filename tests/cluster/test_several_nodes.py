"""Several Ray nodes on one machine: all get work, some go, some come, and nobody is waited for."""

import logging
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from seeded_ray import Nodes, actors, kill_node, patiently, several_nodes
from synthetic_unit import make_worker

from vega3d.cluster import ray_runner
from vega3d.cluster.ray_runner import run_ray
from vega3d.pipeline import open_store
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.merge import merge_commits

pytestmark = [pytest.mark.slow, pytest.mark.ray]
LATE = "hall/005 \u00fc"


@pytest.fixture(scope="module")
def nodes(no_ray: None) -> Iterator[Nodes]:
    with several_nodes(gpus=True) as running:
        yield running


def config(workers: int) -> RunConfig:
    return RunConfig(
        runner="ray", address="auto", workers=workers, gpus_per_worker=1, cpus_per_worker=0,
        attempts=10,
    )  # fmt: skip


def run(url: Path, scenes: int, settings: RunConfig, **faults: object) -> list[int]:
    plan, worker = make_worker(str(url), scenes, **faults)
    results = list(run_ray(worker, plan.units, settings))
    merge_commits(worker.store)
    return sorted(result.unit for result in results)


def undisturbed(url: Path, scenes: int) -> str:
    plan, worker = make_worker(str(url), scenes)
    list(run_inline(worker, plan.units))
    merge_commits(worker.store)
    return open_store(str(url)).digest()


def soon(there: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not there() and time.monotonic() < end:
        time.sleep(0.05)


def test_a_node_goes_and_another_comes_in_the_middle(
    tmp_path: Path, nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    """Four GPUs are asked for and two are there: the run uses these, and what comes later."""
    where = tmp_path / "where"
    where.mkdir()

    plan, worker = make_worker(str(tmp_path / "s"), 30, where=str(where), nodes=3, delay_s=0.1)
    done = set()
    with caplog.at_level(logging.WARNING):
        for result in run_ray(worker, plan.units, config(4)):
            done.add(result.unit)
            if len(nodes.nodes) == 2 and len(names(where)) == 2:
                kill_node(nodes.nodes[0])
                nodes.nodes.append(patiently(lambda: nodes.cluster.add_node(**nodes.each)))
    merge_commits(worker.store)
    assert done == set(range(15))
    assert len(names(where)) == 3, "both nodes, and the one that came"
    assert "4 workers want 4 GPUs and Ray has 2: the run begins with what there is" in caplog.text
    assert open_store(str(tmp_path / "s")).digest() == undisturbed(tmp_path / "u", 30)
    nodes.nodes.pop(0)


def test_a_unit_goes_to_who_is_free(tmp_path: Path, nodes: Nodes) -> None:
    """GPUs of two kinds, one five times as fast: it does most, and nobody waits for the other."""
    where = tmp_path / "where"
    where.mkdir()
    plan, worker = make_worker(
        str(tmp_path / "s"), 48, delay_s=0.1, slow_on={nodes.nodes[0].node_id: 0.4},
        where=str(where), nodes=2,  # both are up before most units are done
    )  # fmt: skip
    by_worker = Counter(result.worker for result in run_ray(worker, plan.units, config(2)))
    merge_commits(worker.store)
    assert sum(by_worker.values()) == 24
    assert len(names(where)) == 2
    (_, most), *others = by_worker.most_common()
    assert most > 2 * sum(count for _, count in others)
    assert open_store(str(tmp_path / "s")).digest() == undisturbed(tmp_path / "u", 48)


def names(where: Path) -> set[str]:
    """Return the nodes that did units."""
    return {path.name.partition("-")[2] for path in where.iterdir()}


def test_a_stragglers_last_unit_is_started_again_where_nobody_is_busy(
    tmp_path: Path, nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    """One worker hangs for ten minutes in the last unit; the run does not."""
    start = time.monotonic()
    with caplog.at_level(logging.INFO, ray_runner.__name__):
        done = run(tmp_path / "s", 6, config(2), hang_on=(LATE,), marks=str(tmp_path))
    assert done == [0, 1, 2]
    assert time.monotonic() - start < 120
    assert "unit 2: takes long; started a second time on an idle worker" in caplog.text
    assert "1 unit was started twice near the end" in caplog.text
    assert open_store(str(tmp_path / "s")).digest() == undisturbed(tmp_path / "u", 6)
    soon(lambda: not any(actors(node) for node in nodes.nodes))  # nobody hangs on
    assert not any(actors(node) for node in nodes.nodes)


def test_a_worker_loads_no_torch_before_its_backbone() -> None:
    """Loading it takes seconds on each place, and a lost worker is started again."""
    code = "import sys, vega3d.cluster.ray_runner; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
