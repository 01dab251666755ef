"""When, where and how runs were carried out: one JSON-lines file a run, beside the commits.

Commit records say nothing of this, so that equal work gives equal bytes. While a run goes on, a
small file beside it says how, every 10 s, for `status --watch`.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from vega3d.pipeline.errors import StoreError, TransientError
from vega3d.pipeline.extract import Summary
from vega3d.pipeline.figures import RunFigures
from vega3d.pipeline.results import UnitResult
from vega3d.pipeline.settings import FILE
from vega3d.pipeline.store.metadata import ROOT
from vega3d.pipeline.store.objects import open_objects
from vega3d.pipeline.store.records import LIVE, LIVE_FOR_S, RUNS, SUMMARY
from vega3d.pipeline.texts import safe, safe_values

_log = logging.getLogger(__name__)

SETTINGS = f"unit/{FILE}"
_LIVE_EVERY_S = 10.0


class RunLog:
    """Collects the events of one run; written when it ends, however it ends."""

    def __init__(self, out: str, asked: Mapping[str, Any], settings: str) -> None:
        """Note the start.

        Args:
            out: Folder or URL of the store.
            asked: How the run was asked for, as plain JSON.
            settings: Its settings, as a file for `--config`.
        """
        self._out, self._settings = out, settings
        self._figures = RunFigures(int(asked.get("run", {}).get("workers", 1)))
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._key = f"{RUNS}/{stamp}-{socket.gethostname()}-{os.getpid()}"
        self._packer, self._packed = zlib.compressobj(1), bytearray()  # of 10,000 units: 1 MB
        self._lock = threading.Lock()  # of the figures: they are shown by a thread
        self._is_shown = False
        self.add("start", argv=sys.argv, host=socket.gethostname(), pid=os.getpid(),
                 python=sys.version.split()[0], vega3d=version("vega3d"), **asked)  # fmt: skip

    def add(self, event: str, **fields: object) -> None:
        """Note an event with the time."""
        told = {"event": event, "time": time.time(), **safe_values(fields)}
        self._packed += self._packer.compress(json.dumps(told).encode() + b"\n")

    def unit(self, result: UnitResult) -> None:
        """Note a finished unit."""
        with self._lock:
            self._figures.add(result)
        for scene_id, reason in result.failures.items():
            about = {"unit": result.unit, "scene": scene_id}
            _log.info("unit %d: failed %s: %s", result.unit, scene_id, reason, extra=about)
        self.add("unit", **asdict(result))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Say how the run goes, every 10 s while it does, however long one unit takes."""
        over = threading.Event()

        def show() -> None:
            while not over.wait(_LIVE_EVERY_S):
                self._show()

        showing = threading.Thread(target=show, name="showing", daemon=True)
        showing.start()
        try:
            yield
        finally:
            over.set()
            showing.join(_LIVE_EVERY_S)  # not for ever: the place may not answer any more
            with suppress(OSError, StoreError, TransientError):
                if self._is_shown:
                    open_objects(self._out).remove(f"{self._key}{LIVE}")

    def with_figures(self, summary: Summary) -> Summary:
        """Return a summary with how the run went over time."""
        return replace(summary, figures=self._figures.told())

    def close(self, summary: Summary | None, error: BaseException | None = None) -> None:
        """Write the log and the settings, and the summary beside them where there is one."""
        ended = f"{type(error).__name__}: {error}" if error else ""
        self.add("end", error=ended, summary=asdict(summary) if summary else None)
        objects = open_objects(self._out)
        if not objects.exists(ROOT):
            return  # the run ended before there was a store: nothing to log beside
        self._packed += self._packer.flush()
        objects.create(f"{self._key}.jsonl", [zlib.decompress(self._packed)])
        with suppress(OSError, StoreError, TransientError):
            for key in list(objects.keys(f"{RUNS}/")):
                if key.endswith(LIVE) and objects.age_s(key) > LIVE_FOR_S:
                    objects.remove(key)
        objects.replace(SETTINGS, [safe(self._settings).encode()])
        if summary is not None:
            objects.replace(SUMMARY, [json.dumps(safe_values(asdict(summary)), indent=2).encode()])

    def _show(self) -> None:
        """Say how the run goes; a place that does not take it now is asked again later."""
        with self._lock:
            told = json.dumps(safe_values({"time": time.time(), **self._figures.now()}))
        with suppress(OSError, StoreError, TransientError):
            objects = open_objects(self._out)
            if objects.exists(ROOT):  # not yet, while scenes are listed and the model is looked at
                self._is_shown = True
                objects.replace(f"{self._key}{LIVE}", [told.encode()])
