"""What the command lines share: exit codes, checked options, one line of result, errors."""

import errno
import io
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer

from vega3d.pipeline.errors import (
    CheckpointError,
    SceneError,
    StoreError,
    TransientError,
    UsageError,
)
from vega3d.pipeline.origin import check_one_origin
from vega3d.pipeline.texts import safe_values, tell

P = ParamSpec("P")
T = TypeVar("T")

BUG, USAGE, SOME_FAILED, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
"""Exit codes; 0 is done."""

Errors = tuple[type[Exception], ...]
MENDABLE: Errors = (UsageError, StoreError, SceneError, CheckpointError)
"""Ours, whose messages say what to do."""

_PLACE_ERRORS = {errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS} | {
    errno.ENOSPC,
    errno.EDQUOT,
}

RESUME = "run the same command again to go on"


def checked(make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a config, whose ValueError is the user's to mend; anywhere else it would be a bug."""
    try:
        return make(*args, **kwargs)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def check_out(out: str | Path) -> None:
    """Refuse a local place that is no folder and cannot become one; makes nothing.

    Raises:
        UsageError: It is a file, lies below one, or nobody may write there.
    """
    if "://" in str(out):
        return
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{out} cannot be a folder: {place} is a file; choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{out} cannot be written: no permission in {place}; choose another --out")


def print_result(result: Mapping[str, Any]) -> None:
    """Print the last line of stdout: one JSON object, without secrets and control characters."""
    sys.stdout.write(json.dumps(safe_values(result)) + "\n")


def interrupted() -> typer.Exit:
    """Say how to go on after Ctrl-C, and return what to raise."""
    tell(f"interrupted; {RESUME}")
    return typer.Exit(INTERRUPTED)


@contextmanager
def resumable() -> Iterator[None]:
    """Let Ctrl-C end what goes on when it is asked for again, with a word on how."""
    try:
        yield
    except KeyboardInterrupt:
        raise interrupted() from None


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception would, so that what was begun is cleaned up."""
    signal.signal(signal.SIGTERM, _terminate)


def run_app(
    app: typer.Typer, arguments: Sequence[str] | None = None, *, mendable: Errors = MENDABLE
) -> None:
    """Run a command line and exit; an error that a user can mend ends with its message alone.

    Whatever else ends it is a bug, and told with its traceback: safe as every other text.
    """
    _warn_of_seen(sys.argv[1:] if arguments is None else arguments)
    try:
        check_one_origin()
        sys.exit(app(arguments, standalone_mode=False) or 0)
    except typer.TyperException as error:  # what is wrong with the arguments
        told = io.StringIO()
        error.show(file=told)  # type: ignore[attr-defined]  # typer's click has it
        tell(told.getvalue().rstrip("\n"))
        sys.exit(error.exit_code)
    except typer.Abort:
        tell("aborted")
        sys.exit(BUG)
    except mendable as error:
        tell(f"error: {error}")
        sys.exit(getattr(error, "exit_code", USAGE))
    except TransientError as error:
        tell(f"error: {error}; when it answers again, {RESUME}")
        sys.exit(USAGE)
    except OSError as error:
        if error.errno not in _PLACE_ERRORS:
            raise
        tell(
            f"error: {error.filename or 'a file'}: {error.strerror}; make room or choose another "
            f"place, then {RESUME}"
        )
        sys.exit(USAGE)
    except Exception:
        tell(traceback.format_exc().rstrip("\n"))
        sys.exit(BUG)


def _warn_of_seen(arguments: Sequence[str]) -> None:
    if any(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@", one) for one in arguments):
        tell(
            "warning: everybody on this machine sees the user and password of a URL in the list of "
            "processes, and a Ray cluster shows them as the job's command; put them into ~/.netrc"
        )


def _terminate(_signal: int, _frame: object) -> NoReturn:
    tell(f"terminated; {RESUME}")
    raise SystemExit(TERMINATED)
