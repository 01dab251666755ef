"""Writing a file whole: a kill at any moment leaves the old one or the new one, never half.

The only place where a file gets its name by renaming, but for the store's own objects, which are
written by `store/folder.py`: it also never replaces.
"""

import os
import shutil
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
    temporary = _beside(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of these bytes, durably, over an older one if there is one."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to be filled; it takes the place of `path` when all went well."""
    temporary = _beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_partial_files(folder: Path) -> None:
    """Remove what writers left that were killed in the middle; no other may write there now."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PARTIAL}")


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
