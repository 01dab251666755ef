"""Progress of a report on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vega3d.pipeline.texts import safe, tell

_LINE_EVERY_S = 5.0


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how many units are done; what comes back is called once a unit.

    Args:
        label: What is being done.
        total: Units in all.
    """
    if not (total and sys.stderr.isatty()):
        yield _lines(label, total)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(safe(label), total=total)
        yield lambda: bar.advance(task)


def _lines(label: str, total: int) -> Callable[[], None]:
    """Return a step that writes a line now and then, and one at the end."""
    done, last_s = 0, time.monotonic()

    def step() -> None:
        nonlocal done, last_s
        done += 1
        if done == total or time.monotonic() - last_s >= _LINE_EVERY_S:
            last_s = time.monotonic()
            tell(f"{label}: {done}/{total} units")

    return step
