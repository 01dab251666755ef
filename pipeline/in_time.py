"""A source whose reads end in time: a dead mount is told, where it would be waited for for ever.

For the commands that read scenes one after the other (`check`, `pack`, `verify --deep`); a run
reads ahead, and has its own limit (`reading_ahead.py`). Before any command lists a folder it is
looked at in time; the listing itself has no limit, for nobody knows how long the largest takes.
"""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from vega3d.pipeline.errors import TransientError
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, SceneSource, with_readers

T = TypeVar("T")

SILENCE_S = 600.0
"""Of one file or one scene's listing: disks that wake up and slow servers take a minute or two."""


@dataclass(frozen=True)
class InTime:
    """A source that reads the scenes of another."""

    source: SceneSource
    limit_s: float = SILENCE_S

    def entries(self) -> Sequence[SceneEntry]:
        """List the scenes."""
        return self.source.entries()

    def read(self, scene_id: str) -> Scene:
        """Read a scene, whose views read in time as well.

        Raises:
            TransientError: Nothing came for `limit_s`.
        """
        scene = _within(scene_id, partial(self.source.read, scene_id), self.limit_s)
        views = [
            with_readers(view, partial(partial, self._read, f"{scene_id}/view {view.view_id}"))
            for view in scene.views
        ]
        return replace(scene, views=tuple(views))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - what else the source offers
        return getattr(self.source, name)

    def _read(self, where: str, read: Callable[..., T], *given: object) -> T:
        return _within(where, partial(read, *given), self.limit_s)


def check_answers(location: str, limit_s: float = SILENCE_S) -> None:
    """Raise TransientError where a folder or file gives no sign of life for so long.

    What is not there, or no local place, is for the reader to tell.
    """

    def look() -> None:
        with suppress(OSError, ValueError), os.scandir(location) as found:
            next(found, None)

    _within(location, look, limit_s)


def _within(where: str, read: Callable[[], T], limit_s: float) -> T:
    done: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def work() -> None:
        try:
            done.put((read(), None))
        except BaseException as error:  # raised again by who waits
            done.put((None, error))

    # A daemon: a thread that waits for a dead mount must not keep the process from ending.
    threading.Thread(target=work, daemon=True).start()
    try:
        made, error = done.get(timeout=limit_s)
    except queue.Empty:
        raise TransientError(
            f"{where}: reading it gave no sign of life for {limit_s:.0f} s; look at its "
            "files and the disk or mount that they lie on"
        ) from None
    if error is not None:
        raise error
    return made  # type: ignore[return-value]  # None is a T where there was no error
