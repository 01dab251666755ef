"""Files and folders that are on the disk when a call returns."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vega3d.pipeline.files import sync

Parts = Sequence[bytes | memoryview]

_PIECE_BYTES = 2**23
"""That are written before the disk is told to begin with them."""


def write_new(path: Path, parts: Parts) -> None:
    """Write a file of a name that is free, one part after the other."""
    with path.open("xb") as file:
        begun = 0
        for part in parts:
            file.write(part)
            if file.tell() - begun >= _PIECE_BYTES:
                file.flush()
                _begin_to_store(file.fileno(), begun, file.tell() - begun)
                begun = file.tell()
        file.flush()
        os.fsync(file.fileno())


def make_folders(folder: Path) -> None:
    """Make a folder and those that it lies in."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync(new.parent)


def _begin_to_store(handle: int, start: int, length: int) -> None:
    """Have the disk begin with bytes that were written, while others are: fsync then waits less.

    What it has stored by then leaves the system's cache: nobody reads it soon.
    """
    with suppress(AttributeError, OSError):  # not every system has it; it is no more than advice
        os.posix_fadvise(handle, start, length, os.POSIX_FADV_DONTNEED)
