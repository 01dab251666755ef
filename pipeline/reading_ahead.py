"""Scenes decoded while the one before is computed, each bounded in time.

What a scene's data causes is that scene's failure; what a disk or a server causes is not. One scene
is ahead, or some small ones, and of a scene that is computed one part: memory is bounded.
"""

import logging
import math
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, NoReturn, TypeVar

from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import SceneError, TransientError
from vega3d.pipeline.features import DecodedScene, Prefetch, decode_scene
from vega3d.pipeline.freed_memory import keep_freed_memory
from vega3d.pipeline.limits import SCENES_AHEAD_BYTES
from vega3d.pipeline.places import roots_of
from vega3d.pipeline.scenes.fingerprints import Fingerprint, fingerprint
from vega3d.pipeline.scenes.scene import BadView, Scene, SceneEntry, SceneSource, with_readers
from vega3d.pipeline.store.scene_arrays import SceneFailure
from vega3d.pipeline.taking import Part
from vega3d.pipeline.texts import fixed_text, printable
from vega3d.pipeline.transient import transient_cause

T = TypeVar("T")

_DATA_ERRORS = (ValueError, ArithmeticError, LookupError, EOFError, OSError, RecursionError,
                struct.error, zlib.error)  # fmt: skip
"""What reading damaged or hostile data raises where a reader did not think of it. Others
(AttributeError, TypeError, AssertionError) are bugs, and stop the run."""

_MOST_AHEAD = 4
_POLL_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadScene:
    """A scene that was decoded, or could not be."""

    scene: DecodedScene | SceneFailure
    seconds: float
    detail: str = ""
    """Of a failure, as the library told it; the failure's reason is the same for the same fault."""

    source: Fingerprint = field(default_factory=dict)
    """How the scene's files looked just before."""

    prefetch: Prefetch = iter
    """Makes the scene's parts one ahead, bounded in time: what is not held is decoded again."""


class UnitReading:
    """Scenes that are decoded ahead: the first at once, each next while one is computed."""

    def __init__(
        self,
        source: SceneSource,
        scene_ids: Sequence[str],
        config: ExtractConfig,
        *,
        limit_s: float = math.inf,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to read.

        Args:
            source: Where they are.
            scene_ids: In order.
            config: Says which views.
            limit_s: A scene of which no view comes for so long is given up.
            beat: Called when a scene is begun and before and after each image, as a sign of life.
        """
        keep_freed_memory()
        reader = _Reader(source, config, _Pulse(beat), limit_s)
        self._scene_ids, self._limit_s = scene_ids, limit_s
        self._reading: _Background[ReadScene] = _Background(
            reader.scenes(scene_ids), reader.pulse, _size
        )

    def scenes(self, then: Callable[[], None] = lambda: None) -> Iterator[ReadScene]:
        """Yield each scene; call `then` once, when all are read and little is ahead any more.

        Raises:
            TransientError: A disk, mount or server does not answer, or not within the limit.
        """
        is_told = False
        try:
            for scene_id in self._scene_ids:
                scene = self._reading.take(scene_id, self._limit_s)
                if not is_told and self._reading.is_little_left(len(self._scene_ids)):
                    is_told = True
                    then()
                yield scene
        finally:
            self.stop()

    def stop(self) -> None:
        """Read no further than the scene that is being read."""
        self._reading.stop()


def read_ahead(
    source: SceneSource,
    scene_ids: Sequence[str],
    config: ExtractConfig,
    *,
    limit_s: float = math.inf,
    beat: Callable[[], None] = lambda: None,
) -> Iterator[ReadScene]:
    """Yield each scene, decoded while the one before it is computed; see `UnitReading`."""
    return UnitReading(source, scene_ids, config, limit_s=limit_s, beat=beat).scenes()


@dataclass
class _Pulse:
    """When those who read showed a sign of life."""

    beat: Callable[[], None]
    heard_s: float = field(default_factory=time.monotonic)

    def alive(self) -> None:
        self.heard_s = time.monotonic()
        self.beat()


class _Background(Generic[T]):
    """An iterator that a thread moves on: while an item is used the next is made.

    Small ones are made some ahead, so that a slow one is waited for less.
    """

    def __init__(
        self,
        items: Iterator[T],
        pulse: _Pulse,
        size: Callable[[T], float] = lambda _: math.inf,  # one ahead
    ) -> None:
        self._items, self._pulse, self._size = items, pulse, size
        self._made: deque[tuple[float, Callable[[], T]]] = deque()
        """Size of each, and what gives it."""
        self._changed = threading.Condition()
        self._count, self._stopped = 0, False
        # A daemon: a thread that waits for a dead mount must not keep the process from ending.
        threading.Thread(target=self._work, daemon=True).start()

    def take(self, scene_id: str, limit_s: float) -> T:
        """Return the next item; raises StopIteration at the end, and TransientError in silence."""
        asked_s = time.monotonic()
        with self._changed:
            while not self._changed.wait_for(lambda: self._made, min(_POLL_S, limit_s)):
                if time.monotonic() - max(asked_s, self._pulse.heard_s) > limit_s:
                    raise TransientError(
                        f"{scene_id}: reading it gave no sign of life for {limit_s:.0f} s; look at "
                        "its files and the disk or mount that they lie on"
                    )
            made = [self._made.popleft()[1]]
            self._changed.notify()
        self._pulse.alive()
        return made.pop()()  # an error holds this frame, which must not hold the error

    def is_little_left(self, count: int) -> bool:
        """Say whether all of so many items were made, and those that nobody took yet are small."""
        with self._changed:
            return self._count >= count and self._ahead_bytes() <= SCENES_AHEAD_BYTES

    def stop(self) -> None:
        """Let the thread end with the item that it is at."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _ahead_bytes(self) -> float:
        return sum(size for size, _ in self._made)

    def _has_room(self) -> bool:
        if self._stopped or not self._made:
            return True
        another = self._made[-1][0]  # as large as the last
        return len(self._made) < _MOST_AHEAD and self._ahead_bytes() + another <= SCENES_AHEAD_BYTES

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_room)
                if self._stopped:
                    return
            self._pulse.alive()
            size, take, is_last = self._next()
            with self._changed:
                self._made.append((size, take))
                self._count += 1
                self._changed.notify()
            del take  # who waits for room holds nothing that was taken
            if is_last:
                return

    def _next(self) -> tuple[float, Callable[[], T], bool]:
        """Return the next item's size, what gives it or raises, and whether nothing follows."""
        try:
            item = next(self._items)
            return self._size(item), lambda: item, False
        except BaseException as error:  # raised again by who takes it; the end, too
            return 0.0, partial(_raise, error), True


def _raise(error: BaseException) -> NoReturn:
    try:
        raise error
    finally:
        del error  # which holds this frame


@dataclass
class _Reader:
    source: SceneSource
    config: ExtractConfig
    pulse: _Pulse
    limit_s: float

    def scenes(self, scene_ids: Sequence[str]) -> Iterator[ReadScene]:
        """Read the scenes one after the other."""
        roots = roots_of(self.source)
        for scene_id in scene_ids:
            try:
                yield self._read(scene_id, roots)
            except BaseException as error:
                error.add_note(f"while reading scene {scene_id}")
                raise

    def _read(self, scene_id: str, roots: Sequence[str]) -> ReadScene:
        start = time.monotonic()
        looked = fingerprint(self.source, scene_id)  # before: a change meanwhile shows later
        try:
            source = _Watched(self.source, self.pulse.alive)
            decoded = decode_scene(source, scene_id, self.config)
        except SceneError as error:
            _raise_if_transient(error, scene_id)
            failure = SceneFailure(scene_id, fixed_text(str(error), roots))
            return ReadScene(failure, time.monotonic() - start, detail(error), looked)
        prefetch = iter if decoded.is_held else partial(self._parts_ahead, scene_id)
        return ReadScene(decoded, time.monotonic() - start, source=looked, prefetch=prefetch)

    def _parts_ahead(self, scene_id: str, parts: Iterator[Part]) -> Iterator[Part]:
        reading: _Background[Part] = _Background(parts, self.pulse)
        try:
            while True:
                try:
                    part = reading.take(scene_id, self.limit_s)
                except StopIteration:
                    return
                yield part
        finally:
            reading.stop()


@dataclass
class _Watched:
    """A source each of whose steps is a sign of life, and whose errors are ours."""

    source: SceneSource
    alive: Callable[[], None]

    def entries(self) -> Sequence[SceneEntry]:
        return self.source.entries()

    def read(self, scene_id: str) -> Scene:
        scene = self._ours(scene_id, self.source.read, scene_id)
        views, bad = [], list(scene.bad_views)
        for view in scene.views:
            if printable(view.view_id) != view.view_id:
                bad.append(BadView(printable(view.view_id), "its name is no printable Unicode"))
                continue
            where = f"{scene_id}/view {view.view_id}"
            views.append(with_readers(view, partial(partial, self._ours, where)))
        return replace(scene, views=tuple(views), bad_views=tuple(bad))

    def _ours(self, where: str, read: Callable[..., T], *given: object) -> T:
        self.alive()
        try:
            return read(*given)
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


def _size(read: ReadScene) -> float:
    scene = read.scene
    return 0.0 if isinstance(scene, SceneFailure) else sum(one.num_bytes for one in scene.decoded)


def detail(error: Exception) -> str:
    """Return an error with what it was raised from, as libraries told it; for a run's log."""
    causes: list[str] = []
    cause = error.__cause__
    while cause is not None and len(causes) < 4:
        causes.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    return " < ".join([str(error), *causes])
