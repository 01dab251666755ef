"""Dask, and nothing else: one function mapped over tasks, here or on a cluster.

Every result goes to `keep` as soon as it is there and is then dropped, so nothing piles up: on this
machine in the worker that made it, from a cluster in this process, whose disk the workers need not
see. The order in which results come says nothing about the order in which they are reduced.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from vega3d.evaluate.config import RunConfig
from vega3d.pipeline.errors import UsageError

Task = TypeVar("Task")
Result = TypeVar("Result")
Keep = Callable[[int, Result], None]

WAVE = 256
"""Tasks of one graph; the next graph is built when they are done."""

CONNECT_S = 10
"""Time that a cluster's scheduler has to answer, seconds."""

_log = logging.getLogger(__name__)


def map_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    run: RunConfig,
    keep: Keep[Result],
    step: Callable[[], None],
) -> None:
    """Call `function` on every task and `keep(index, result)` on what it gives.

    Args:
        function: Picklable where workers are processes.
        tasks: In the order of their indices.
        run: Where to compute.
        keep: Safe to call from several threads; picklable where workers are processes.
        step: Called in this thread after each task.
    """
    if run.dask_address:
        _map_distributed(function, tasks, run.dask_address, keep, step)
        return
    for start in range(0, len(tasks), WAVE):
        _map_local(function, list(enumerate(tasks))[start : start + WAVE], run, keep, step)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread a task: the same bits for any workers, and no oversubscription."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no stubs

    with threadpool_limits(limits=1):
        yield


def _map_local(
    function: Callable[[Task], Result],
    tasks: Sequence[tuple[int, Task]],
    run: RunConfig,
    keep: Keep[Result],
    step: Callable[[], None],
) -> None:
    import dask
    from dask.callbacks import Callback

    apart = run.scheduler == "processes"
    graph = [
        dask.delayed(partial(_do, function, index, task, keep, apart), pure=False)()
        for index, task in tasks
    ]
    workers = run.workers or os.cpu_count() or 1
    with one_blas_thread(), Callback(posttask=lambda *_: step()):
        dask.compute(*graph, scheduler=run.scheduler, num_workers=workers, optimize_graph=False)


def _do(
    function: Callable[[Task], Result], index: int, task: Task, keep: Keep[Result], apart: bool
) -> None:
    keep(index, _alone(function, task) if apart else function(task))


def _alone(function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task in a process of its own, where the limit of BLAS is not set yet."""
    with one_blas_thread():
        return function(task)


def _map_distributed(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    address: str,
    keep: Keep[Result],
    step: Callable[[], None],
) -> None:
    """Keep a window of tasks on the cluster; a worker that dies gives its tasks back to Dask."""
    from distributed import as_completed

    with _connected(address) as client:
        window = max(4 * sum(client.nthreads().values()), 1)
        _log.info("dask cluster %s: %d threads", address, window // 4)
        indices: dict[str, int] = {}

        def submit(index: int) -> Any:  # noqa: ANN401 - distributed.Future
            future = client.submit(_alone, function, tasks[index], pure=False)
            indices[future.key] = index
            return future

        ahead = min(window, len(tasks))
        running = as_completed([submit(i) for i in range(ahead)], loop=client.loop)
        for future in running:
            keep(indices.pop(future.key), future.result())
            future.release()
            step()
            if ahead < len(tasks):
                running.add(submit(ahead))
                ahead += 1


def _connected(address: str) -> Any:  # noqa: ANN401 - distributed.Client
    """Return a client of the cluster.

    Raises:
        UsageError: Nothing answers there.
    """
    from distributed import Client

    try:
        return Client(address, set_as_default=False, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no dask scheduler answers at {address!r} within {CONNECT_S} s ({error}); "
            "start one, or leave --dask-address out to compute here"
        ) from error
