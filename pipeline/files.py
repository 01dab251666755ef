"""Writing a file whole: a kill at any moment leaves the old one or the new one, never half.

The store's own objects are written by `store/folder.py`, which also never replaces.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"
"""Ending of the temporary names, which begin with a dot."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to be filled; it is made durable and renamed when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of these bytes, durably, over an older one if there is one."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
