"""Scenes decoded while the one before is computed, each bounded in time.

What a scene's data causes is that scene's failure; what a disk or a server causes is not.
"""

import logging
import math
import queue
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import SceneError, TransientError
from vega3d.pipeline.features import DecodedScene, decode_scene
from vega3d.pipeline.scenes.scene import BadView, Scene, SceneEntry, SceneSource, View
from vega3d.pipeline.store.scene_arrays import SceneFailure
from vega3d.pipeline.texts import fixed_text, printable
from vega3d.pipeline.transient import transient_cause

T = TypeVar("T")

_DATA_ERRORS = (ValueError, ArithmeticError, LookupError, EOFError, OSError, RecursionError,
                struct.error, zlib.error)  # fmt: skip
"""What reading damaged or hostile data raises where a reader did not think of it. Others
(AttributeError, TypeError, AssertionError) are bugs, and stop the run."""

MAX_SCENE_BYTES = 8 << 30
"""Of a scene's decoded images and depths together: what is more would fill memory."""

_POLL_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadScene:
    """A scene that was decoded, or could not be."""

    scene: DecodedScene | SceneFailure
    seconds: float
    detail: str = ""
    """Of a failure, as the library told it; the failure's reason is the same for the same fault."""


def read_ahead(
    source: SceneSource,
    scene_ids: Sequence[str],
    config: ExtractConfig,
    *,
    limit_s: float = math.inf,
    beat: Callable[[], None] = lambda: None,
) -> Iterator[ReadScene]:
    """Yield each scene, decoded while the one before it is computed.

    Args:
        source: Where they are.
        scene_ids: In order.
        config: Says which views.
        limit_s: A scene of which no view comes for so long is given up.
        beat: Called when a scene is begun and before and after each image, as a sign of life.

    Raises:
        TransientError: A disk, mount or server does not answer, or not within `limit_s`.
    """
    reader = _Reader(source, config, beat)
    # A daemon: a thread that waits for a dead mount must not keep the process from ending.
    thread = threading.Thread(target=reader.work, args=(scene_ids,), daemon=True)
    thread.start()
    try:
        for scene_id in scene_ids:
            item = reader.take(scene_id, limit_s)
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        reader.stop()


def places(source: SceneSource | None) -> tuple[str, ...]:
    """Return the folders and URLs below which a source's files lie."""
    root = getattr(source, "root", "")
    tars = {str(one.url).rpartition("/")[0] for one in getattr(source, "scenes", ())}
    return tuple(sorted(filter(None, {str(root), *tars})))


@dataclass
class _Reader:
    source: SceneSource
    config: ExtractConfig
    beat: Callable[[], None]
    _ready: "queue.Queue[ReadScene | BaseException]" = field(default_factory=lambda: queue.Queue(1))
    _stopped: bool = False
    _heard_s: float = field(default_factory=time.monotonic)

    def work(self, scene_ids: Sequence[str]) -> None:
        """Read the scenes one after the other, one ahead of who takes them."""
        roots = places(self.source)
        for scene_id in scene_ids:
            if self._stopped:
                return
            self.alive()
            try:
                item: ReadScene | BaseException = self._read(scene_id, roots)
            except BaseException as error:  # raised again by who takes it
                error.add_note(f"while reading scene {scene_id}")
                item = error
            self._ready.put(item)

    def take(self, scene_id: str, limit_s: float) -> ReadScene | BaseException:
        """Return the next scene; raises TransientError where none comes in time."""
        while True:
            try:
                item = self._ready.get(timeout=min(_POLL_S, limit_s))
            except queue.Empty:
                if time.monotonic() - self._heard_s > limit_s:
                    raise TransientError(
                        f"{scene_id}: reading it gave no sign of life for {limit_s:.0f} s; look at "
                        "its files and the disk or mount that they lie on"
                    ) from None
            else:
                self.alive()
                return item

    def stop(self) -> None:
        """Let the thread end with the scene that it is at."""
        self._stopped = True
        while not self._ready.empty():
            self._ready.get()

    def alive(self) -> None:
        self._heard_s = time.monotonic()
        self.beat()

    def _read(self, scene_id: str, roots: Sequence[str]) -> ReadScene:
        start = time.monotonic()
        try:
            decoded = decode_scene(_Watched(self.source, self.alive), scene_id, self.config)
            return ReadScene(decoded, time.monotonic() - start)
        except (SceneError, _TooLargeError) as error:
            _raise_if_transient(error, scene_id)
            failure = SceneFailure(scene_id, fixed_text(str(error), roots))
            return ReadScene(failure, time.monotonic() - start, _detail(error))


class _TooLargeError(Exception):
    """A scene does not fit memory; no bad view, which would be left out."""


@dataclass
class _Watched:
    """A source each of whose steps is a sign of life, and whose errors are ours."""

    source: SceneSource
    alive: Callable[[], None]
    decoded_bytes: int = 0

    def entries(self) -> Sequence[SceneEntry]:
        return self.source.entries()

    def read(self, scene_id: str) -> Scene:
        scene = self._ours(lambda: self.source.read(scene_id), scene_id)
        views, bad = [], list(scene.bad_views)
        for view in scene.views:
            if printable(view.view_id) != view.view_id:
                bad.append(BadView(printable(view.view_id), "its name is no printable Unicode"))
                continue
            views.append(self._watched(view, f"{scene_id}/view {view.view_id}"))
        return replace(scene, views=tuple(views), bad_views=tuple(bad))

    def _watched(self, view: View, where: str) -> View:
        depth = view.read_depth_m
        return replace(
            view,
            read_rgb=lambda: self._counted(view.read_rgb, where),
            read_depth_m=None if depth is None else lambda: self._counted(depth, where),
        )

    def _counted(self, read: Callable[[], np.ndarray], where: str) -> np.ndarray:
        image = self._ours(read, where)
        self.decoded_bytes += image.nbytes
        if self.decoded_bytes > MAX_SCENE_BYTES:
            raise _TooLargeError(
                f"{where}: the scene's images decode to more than {MAX_SCENE_BYTES >> 30} GiB "
                "together; take fewer --views, or scale them down"
            )
        return image

    def _ours(self, read: Callable[[], T], where: str) -> T:
        self.alive()
        try:
            return read()
        except SceneError as error:
            _raise_if_transient(error, where)
            raise
        except _DATA_ERRORS as error:
            _raise_if_transient(error, where)
            told = f"cannot be read ({type(error).__name__}: {error})"
            raise SceneError(f"{where}: {told}") from error
        finally:
            self.alive()


def _raise_if_transient(error: Exception, where: str) -> None:
    cause = transient_cause(error)
    if cause is not None:
        raise TransientError(f"{where}: {cause.strerror or cause}") from error


def _detail(error: Exception) -> str:
    causes: list[str] = []
    cause = error.__cause__
    while cause is not None and len(causes) < 4:
        causes.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    return " < ".join([str(error), *causes])
