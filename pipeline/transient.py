"""Trouble that passes by itself: which errors those are, and asking again with growing pauses."""

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from vega3d.pipeline.errors import TransientError

T = TypeVar("T")

PATIENCE_S = 60.0
"""How long one thing is asked for again before it is given up: a server that restarts is back."""

MIN_ATTEMPTS = 3
"""However long they take: a large upload that fails late is begun again."""

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0

_PASSING = frozenset(
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO,
     errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH,
     errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN,
     errno.ENOLINK, errno.EMFILE, errno.ENFILE)
)  # fmt: skip
"""What a disk, a mount or a connection that is not well gives, whatever the file holds."""

_log = logging.getLogger(__name__)


def is_transient(error: OSError) -> bool:
    """Say whether a local file or a connection failed for a reason that may pass."""
    return error.errno in _PASSING


def transient_cause(error: BaseException | None) -> OSError | None:
    """Return the passing trouble that an error was raised from, or None where there is none.

    FFmpeg's own errors do not count: it says EIO of a file that is cut short.
    """
    while error is not None:
        foreign = type(error).__module__.partition(".")[0] == "av"
        if isinstance(error, OSError) and not foreign and is_transient(error):
            return error
        error = error.__cause__ or error.__context__
    return None


def pauses() -> "Pauses":
    """Return growing random pauses, from the first to the longest."""
    return Pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)


class Pauses:
    """Pauses that double, each drawn between half and whole, so that many waiters spread out."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        """Start with the shortest."""
        self._next_s, self._longest_s = first_s, longest_s

    def next_s(self) -> float:
        """Return how long to wait now."""
        pause_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, self._longest_s)
        return pause_s


def retried(ask: Callable[[], T]) -> T:
    """Return what `ask` returns; ask again while it raises TransientError.

    Raises:
        TransientError: Still, after PATIENCE_S and MIN_ATTEMPTS; the message counts them.
    """
    start, waits, attempts = time.monotonic(), pauses(), 0
    while True:
        attempts += 1
        try:
            return ask()
        except TransientError as error:
            pause_s = waits.next_s()
            tried_s = time.monotonic() - start
            if attempts >= MIN_ATTEMPTS and tried_s + pause_s > PATIENCE_S:
                raise TransientError(f"{error} ({attempts} attempts in {tried_s:.0f} s)") from error
            _log.info("%s; asking again in %.1f s", error, pause_s)
        time.sleep(pause_s)


def retried_io(path: str, ask: Callable[[], T]) -> T:
    """Return what `ask` returns of a local file; ask again while the disk is at fault.

    Raises:
        TransientError: The disk or mount is still at fault.
        OSError: Any other error, at once.
    """

    def once() -> T:
        try:
            return ask()
        except OSError as error:
            if not is_transient(error):
                raise
            raise TransientError(f"{path}: {error.strerror}") from error

    return retried(once)
