"""The kinds of `seeded.py` that Ray takes part in: actors, nodes, raylets and drivers that die."""

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import psutil
import ray
import synthetic_unit
from ray import cloudpickle
from ray._private.node import Node
from ray.cluster_utils import Cluster
from seeded import LIMIT_S, SCENES, Bench, Outcome, ended, no_main, write_store
from synthetic_unit import make_worker

from vega3d.cluster import ray_runner
from vega3d.cluster.ray_runner import run_ray
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.writer import uncommitted

T = TypeVar("T")
CONFIG = RunConfig(runner="ray", address="auto", workers=2, attempts=20, unit_timeout_s=3)
DELAY_S = 0.05


class Nodes:
    """A head without a place for actors, and two nodes with one each; nodes that die come back."""

    def __init__(self, *, gpus: bool = False) -> None:
        self.each = {"num_cpus": 1, "num_gpus": int(gpus)}
        head = {"num_cpus": 0, "include_dashboard": False}
        self.cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.nodes: list[Node] = []
        self.fill()

    def fill(self) -> None:
        """Bring the nodes back to two."""
        self.nodes = [node for node in self.nodes if self._lives(node)]
        while len(self.nodes) < 2:
            self.nodes.append(patiently(lambda: self.cluster.add_node(**self.each)))

    def _lives(self, node: Node) -> bool:
        if psutil.pid_exists(pid := raylet(node)):
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return False


def patiently(start: Callable[[], T]) -> T:
    """Start a part of Ray, which gives up after 30 s on a machine that is busy."""
    for _ in range(5):
        try:
            return start()
        except Exception as error:  # Ray raises no other type
            if "timed out during startup" not in str(error):
                raise
    return start()


def raylet(node: Node) -> int:
    (found,) = node.all_processes["raylet"]
    return int(found.process.pid)


def actors(node: Node) -> list[psutil.Process]:
    """Return the processes of a node that hold an actor of ours."""
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(raylet(node)).children(recursive=True)
        return [one for one in below if "ray::Worker" in " ".join(one.cmdline())]
    return []


@contextmanager
def several_nodes(*, gpus: bool = False) -> Iterator[Nodes]:
    """Start Ray with three nodes on this machine, and connect; two have a GPU that is none."""
    before = os.environ.get("RAY_AUTH_MODE")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray_runner.POLL_S = 0.5
    nodes = Nodes(gpus=gpus)
    ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level="ERROR")
    cloudpickle.register_pickle_by_value(synthetic_unit)
    try:
        yield nodes
    finally:
        cloudpickle.unregister_pickle_by_value(synthetic_unit)
        ray.shutdown()
        nodes.cluster.shutdown()
        os.environ.pop("RAY_AUTH_MODE")
        if before is not None:
            os.environ["RAY_AUTH_MODE"] = before


def on_ray(url: str) -> None:
    """Write what is not there yet with actors."""
    plan, worker = make_worker(url, SCENES, delay_s=DELAY_S)
    for _result in run_ray(worker, uncommitted(worker.store, plan), CONFIG):
        pass
    merge_commits(worker.store)


def strike(
    bench: Bench, chance: random.Random, outcome: Outcome, blow: Callable[[Node], bool]
) -> threading.Thread:
    """Let a blow fall on a random node that has an actor, a random moment after it came."""
    wait_s, first = chance.uniform(0.0, 0.6), chance.randrange(2)

    def wait() -> None:
        end = time.monotonic() + LIMIT_S / 4
        nodes = bench.ray.nodes[first:] + bench.ray.nodes[:first]
        while time.monotonic() < end:
            for node in nodes:
                if actors(node):
                    time.sleep(wait_s)
                    outcome.delivered += blow(node)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def sent(pids: list[int], number: int) -> bool:
    done = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            done += 1
    return done > 0


def struck(blow: Callable[[Node], bool]) -> Callable[[Bench, str, random.Random, Outcome], None]:
    """Return the kind in which this blow falls on a run that goes on by itself."""

    def kind(bench: Bench, url: str, chance: random.Random, outcome: Outcome) -> None:
        bench.ray.fill()
        thread = strike(bench, chance, outcome, blow)
        on_ray(url)
        thread.join()
        write_store(url)

    return kind


def kill_actor(node: Node) -> bool:
    return sent([one.pid for one in actors(node)], signal.SIGKILL)


def kill_raylet(node: Node) -> bool:
    return sent([raylet(node)], signal.SIGKILL)


def kill_node(node: Node) -> bool:
    """Kill all of a node at once, as a preemption does."""
    family = [raylet(node)]
    with suppress(psutil.NoSuchProcess):
        family += [one.pid for one in psutil.Process(raylet(node)).children(recursive=True)]
    return sent(family, signal.SIGKILL)


def stop_actor(node: Node) -> bool:
    """Suspend an actor for longer than a unit may be silent, then let it go on."""
    pids = [one.pid for one in actors(node)]
    done = sent(pids, signal.SIGSTOP)
    time.sleep(CONFIG.unit_timeout_s + 1.5)
    sent(pids, signal.SIGCONT)
    return done


def drive(url: str, address: str) -> None:
    """Be a driver: the whole of a process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    cloudpickle.register_pickle_by_value(synthetic_unit)
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    on_ray(url)


def kill_driver(bench: Bench, url: str, chance: random.Random, outcome: Outcome) -> None:
    """Kill -9 the driver; its orphans may still write while the next run does."""
    bench.ray.fill()
    process = multiprocessing.get_context("forkserver").Process(
        target=drive, args=(url, bench.ray.cluster.address)
    )
    with no_main():
        process.start()
    thread = strike(bench, chance, outcome, lambda _node: sent([process.pid], signal.SIGKILL))
    thread.join()
    ended(process)
    write_store(url)


RAY_KINDS: dict[str, Callable[[Bench, str, random.Random, Outcome], None]] = {
    "Ray: actor killed -9": struck(kill_actor),
    "Ray: raylet killed -9": struck(kill_raylet),
    "Ray: node killed -9": struck(kill_node),
    "Ray: actor stopped, and on later": struck(stop_actor),
    "Ray: driver killed -9": kill_driver,
}
