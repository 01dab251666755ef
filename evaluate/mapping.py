"""Dask, and nothing else: one function mapped over tasks, here or on a cluster.

Every result goes to `on_result` as soon as it is there; the caller keeps what it needs, so nothing
piles up. The order in which results come says nothing about the order in which they are reduced.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

from vega3d.evaluate.config import RunConfig

Task = TypeVar("Task")
Result = TypeVar("Result")
OnResult = Callable[[int, Result], None]

WAVE = 256
"""Tasks of one graph; the next graph is built when they are done."""

_log = logging.getLogger(__name__)


def map_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    run: RunConfig,
    on_result: Callable[[int, Result], None],
) -> None:
    """Call `function` on every task, and `on_result(index, result)` in this process.

    Args:
        function: Picklable where workers are processes.
        tasks: In the order of their indices.
        run: Where to compute.
        on_result: Called in this thread, in the order in which results come.
    """
    if run.dask_address:
        _map_distributed(function, tasks, run.dask_address, on_result)
        return
    for start in range(0, len(tasks), WAVE):
        _map_local(function, tasks[start : start + WAVE], run, partial(_shifted, on_result, start))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread a task: the same bits for any workers, and no oversubscription."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no stubs

    with threadpool_limits(limits=1):
        yield


def _shifted(on_result: OnResult[Result], start: int, index: int, result: Result) -> None:
    on_result(start + index, result)


def _alone(function: Callable[[Task], Result], task: Task, limit: bool) -> Result:
    """Run one task; in a process of its own the BLAS limit is set there."""
    with one_blas_thread() if limit else nullcontext():
        return function(task)


def _map_local(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    run: RunConfig,
    on_result: OnResult[Result],
) -> None:
    import dask
    from dask.callbacks import Callback

    apart = run.scheduler == "processes"

    def done(key: Any, value: Any, *_: object) -> None:  # noqa: ANN401 - dask's own types
        on_result(int(str(key).removeprefix("unit-")), value)

    graph = [
        dask.delayed(partial(_alone, function, task, apart), pure=False)(dask_key_name=f"unit-{i}")
        for i, task in enumerate(tasks)
    ]
    workers = run.workers or os.cpu_count() or 1
    with one_blas_thread(), Callback(posttask=done):
        dask.compute(*graph, scheduler=run.scheduler, num_workers=workers, optimize_graph=False)


def _map_distributed(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    address: str,
    on_result: OnResult[Result],
) -> None:
    """Keep a window of tasks on the cluster; a worker that dies gives its tasks back to Dask."""
    from distributed import Client, as_completed

    with Client(address, set_as_default=False) as client:
        window = max(4 * sum(client.nthreads().values()), 1)
        _log.info("dask cluster %s: %d threads", address, window // 4)
        indices: dict[str, int] = {}

        def submit(index: int) -> Any:  # noqa: ANN401 - distributed.Future
            future = client.submit(_alone, function, tasks[index], True, pure=False)
            indices[future.key] = index
            return future

        ahead = min(window, len(tasks))
        running = as_completed([submit(i) for i in range(ahead)], loop=client.loop)
        for future in running:
            on_result(indices.pop(future.key), future.result())
            future.release()
            if ahead < len(tasks):
                running.add(submit(ahead))
                ahead += 1
