"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from vega3d.pipeline.results import UnitResult
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.texts import tell

_LINE_EVERY_S = 5.0


class Progress:
    """Shows scenes done, failures and the time that is left."""

    def __init__(self) -> None:
        """Show nothing yet; the first result says how much there is."""
        self._started = time.monotonic()
        self._last_line = 0.0
        self._done = self._failed = self._views = self._total = 0
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(console=Console(stderr=True))
            self._task = self._bar.add_task("scenes", total=None)

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

    def show(self, result: UnitResult, units: Sequence[Unit]) -> None:
        """Add a finished unit; `units` are all those of this run."""
        self._done += result.scenes
        self._failed += len(result.failures)
        self._views += result.views
        if not self._total:  # once: a run may have a hundred thousand
            self._total = sum(len(unit.scene_ids) for unit in units)
        total = self._total
        rate = self._views / max(time.monotonic() - self._started, 1e-9)
        told = f"{self._failed} failed, {rate:.2f} views/s"
        if self._bar is not None:
            self._bar.update(
                self._task,
                total=total,
                completed=self._done,
                description=f"scenes ({told})",
            )
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_EVERY_S or self._done == total:
            self._last_line = now
            tell(f"{self._done}/{total} scenes, {told}")
