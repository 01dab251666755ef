"""Work done by several threads, results in order; none of them keeps a process from ending.

A thread may wait for a dead mount for ever: pools of the standard library would wait for it too.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def begun(function: Callable[[], Made]) -> "Future[Made]":
    """Call a function in a thread of its own, and return what will hold its result."""
    future: Future[Made] = Future()
    threading.Thread(target=_settle, args=(future, function), daemon=True).start()
    return future


def in_order(
    function: Callable[[Item], Made], items: Sequence[Item], threads: int
) -> Iterator[Made]:
    """Yield what a function makes of each item, in order, made by several threads.

    At most one result a thread, and one, is made and not yet taken. What a call raises is raised
    in its place; no further item is then begun.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    futures: list[Future[Made]] = [Future() for _ in items]
    room, numbers, lock = (
        threading.Semaphore(threads + 1),
        iter(range(len(items))),
        threading.Lock(),
    )
    stopped = threading.Event()

    def work() -> None:
        while True:
            room.acquire()
            with lock:
                index = next(numbers, None)
            if index is None or stopped.is_set():
                room.release()  # for the others, who wait to learn the same
                return
            _settle(futures[index], partial(function, items[index]))

    for _ in range(min(threads, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for index, future in enumerate(futures):
            made = future.result()
            futures[index] = Future()  # hold it no longer than who takes it
            room.release()
            yield made
    finally:
        stopped.set()
        room.release()


def _settle(future: "Future[Made]", function: Callable[[], Made]) -> None:
    try:
        made = function()
    except BaseException as error:  # raised again by who asks for the result
        future.set_exception(error)
    else:
        future.set_result(made)
    finally:
        del future, function  # an error holds this frame, and the future the error
