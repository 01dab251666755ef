"""What a run says while it goes on: metrics.jsonl, TensorBoard, and progress on stderr."""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import write_whole

METRICS = "metrics.jsonl"
_log = logging.getLogger(__name__)


class Journal:
    """Lines of metrics.jsonl and their curves; a resumed run continues them without a seam."""

    def __init__(self, run_dir: Path, done_steps: int) -> None:
        """Open both files, and forget what lies after the step that is resumed from."""
        from torch.utils.tensorboard import SummaryWriter

        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / METRICS
        _forget_after(self._path, done_steps)
        self._file = self._path.open("a")
        self._board = SummaryWriter(run_dir / "tensorboard", purge_step=done_steps + 1)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Add a line; `kind` is `train` or `val`, `step` counts the finished ones."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Make every line so far durable: called before a checkpoint that counts on them."""
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl; a torn last line is left out.

    Raises:
        UsageError: A line is damaged.
    """
    path = run_dir / METRICS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines[:-1], 1)]


class ProgressBar:
    """Steps, tokens a second and the time left: a bar on a terminal, now and then a line elsewhere.

    Lines go to the log, so that a job's file stays readable.
    """

    def __init__(self, label: str, total: int, done: int, line_every_s: float = 15.0) -> None:
        """Start counting from `done`."""
        self._label, self._total, self._first = label, total, done
        self._start_s = self._last_line_s = time.monotonic()
        self._line_every_s = line_every_s
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description} {task.completed}/{task.total}"),
                BarColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(label, total=total, completed=done, note="")
            self._bar.start()

    def update(self, done: int, note: str) -> None:
        """Say that so many steps are finished."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now_s = time.monotonic()
        if now_s - self._last_line_s >= self._line_every_s or done == self._total:
            self._last_line_s = now_s
            each_s = (now_s - self._start_s) / max(1, done - self._first)
            left_s = each_s * (self._total - done)
            _log.info("%s %d/%d, %s, %.0f s left", self._label, done, self._total, note, left_s)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        values = dict(json.loads(line))
        if isinstance(values["step"], int) and values["kind"] in ("train", "val"):
            return values
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise UsageError(f"{where}: is damaged; remove that line and repeat the run's command")


def _forget_after(path: Path, done_steps: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_metrics(path.parent) if line["step"] <= done_steps]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
