"""Local files that others made, opened in this one place: plain files only, and not without end.

A name may lead to a FIFO, whose reader waits for ever, to a device that never ends, or to a sparse
file of a terabyte; and a disk or mount that is not well is asked again.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader

from vega3d.pipeline.transient import retried_io

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file starts that Git LFS left unfetched. Source: git-lfs, docs/spec.md."""

_PIECE_BYTES = 1 << 20

MAX_FILE_BYTES = 1 << 30
"""Largest file that is read as a whole. An image over the limit of pixels is smaller."""


def open_plain(path: str) -> BufferedReader:
    """Open a plain file for reading; a FIFO or device is never waited for.

    Raises:
        OSError: It cannot be opened, or is no plain file.
        TransientError: The disk or mount did not answer.
    """
    return retried_io(path, lambda: _open_plain(path))


def read_plain(path: str, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of a plain file.

    Raises:
        OSError: It cannot be read, is no plain file, or holds more than `limit_bytes`.
        TransientError: The disk or mount did not answer.
    """

    def read() -> bytes:
        handle = _plain_handle(path)
        try:
            size_bytes = os.fstat(handle).st_size
            _check_size(size_bytes, limit_bytes, path)
            # Python's file objects ask five things more, and let other threads go first each time.
            pieces = [os.read(handle, size_bytes + 1)]
            while pieces[-1]:  # more where it grows
                _check_size(sum(map(len, pieces)), limit_bytes, path)
                pieces.append(os.read(handle, _PIECE_BYTES))
            return pieces[0] if len(pieces) <= 2 else b"".join(pieces)
        finally:
            os.close(handle)

    return retried_io(path, read)


@contextmanager
def told_if_unfetched(path: str) -> Iterator[None]:
    """Say so where a file is not there because a link leads nowhere, as in a hub's cache."""
    try:
        yield
    except FileNotFoundError as error:
        if os.path.islink(path):
            error.strerror = (
                "is a link to a file that is not there; fetch the file, as with hf download"
            )
        raise


def check_no_pointer(data: bytes, path: str) -> None:
    """Raise OSError where a file's first bytes are those of a pointer that Git LFS left there."""
    if data.startswith(_LFS_POINTER):
        told = "is a Git LFS pointer; fetch the file with git lfs pull"
        raise OSError(errno.EINVAL, told, path)


def check_fetched(path: str) -> None:
    """Raise OSError where a file was never fetched, for a library that opens the path itself."""
    with told_if_unfetched(path), open_plain(path) as file:
        check_no_pointer(file.read(len(_LFS_POINTER)), path)


def check_plain(path: str) -> None:
    """Raise as `open_plain` does, for a library that opens the path itself."""
    open_plain(path).close()


def _open_plain(path: str) -> BufferedReader:
    handle = _plain_handle(path)
    try:
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _plain_handle(path: str) -> int:
    # Opening a FIFO waits for its writer, and some devices act when they are opened: look first,
    # do not wait, and look at what was opened.
    try:
        _check(os.stat(path), path)
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # a NUL byte in the name
        raise OSError(errno.EINVAL, str(error), path) from error
    try:
        _check(os.fstat(handle), path)
        os.set_blocking(handle, True)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _check_size(size_bytes: int, limit_bytes: int, path: str) -> None:
    if size_bytes > limit_bytes:
        told = f"holds {size_bytes} bytes, more than the limit of {limit_bytes}"
        raise OSError(errno.EFBIG, told, path)


def _check(found: os.stat_result, path: str) -> None:
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
        stat.S_IFDIR: "a folder",
    }
    kind = kinds.get(stat.S_IFMT(found.st_mode))
    if kind is not None:
        code = errno.EISDIR if kind == "a folder" else errno.EINVAL
        raise OSError(code, f"is {kind}, and must be a plain file", path)
