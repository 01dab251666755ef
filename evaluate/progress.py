"""Progress of a report on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

_LINE_EVERY_S = 5.0


class Progress:
    """Counts finished units; use it as a context manager."""

    def __init__(self, label: str, total: int) -> None:
        """Show nothing yet.

        Args:
            label: What is being done.
            total: Units in all.
        """
        self._label, self._total, self._done = label, total, 0
        self._last_line = 0.0
        self._bar = None
        if total and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(console=Console(stderr=True))
            self._task = self._bar.add_task(label, total=total)

    def __enter__(self) -> Self:
        """Start the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def step(self) -> None:
        """Count one more unit."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
            return
        now = time.monotonic()
        if self._done == self._total or now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            sys.stderr.write(f"{self._label}: {self._done}/{self._total} units\n")
            sys.stderr.flush()
