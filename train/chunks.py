"""Reading one view's features into memory that is already there, as fast as the disk gives them.

A chunk of the store is one view, uncompressed, followed by its crc32c
(pipeline/store/FORMAT.md). For a local store it is read by one `preadv` through the shard's own
index, straight into the batch's (pinned) buffer, and its checksum is verified there. A store in a
bucket is read by the store's own reader. `tests/benchmarks/bench_train_speed.py` compares the
loader with plain reading of the same files.
"""

import errno
import mmap
import os
import sys
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
from fastcrc.crc32 import iscsi as crc32c

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.store import Store

_MISSING = 2**64 - 1
_CRC_BYTES = 4
AT_ONCE = getattr(os, "RWF_NOWAIT", 0)  # Linux
_OPEN_FILES = 64  # of all stores together; the usual limit of a process is 1024


def bytes_of(array: np.ndarray) -> memoryview:
    """Return the memory of a contiguous array, to be read into."""
    return array.reshape(-1).view(np.uint8).data


def page_aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return zeros that begin at a page: the kernel copies there twice as fast as 16 bytes on."""
    size = int(np.prod(shape)) * dtype.itemsize
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
    return np.frombuffer(
        mmap.mmap(-1, max(size, 1), **private), dtype, size // dtype.itemsize
    ).reshape(shape)


def open_chunks(store: Store, tap: str) -> "DirectChunks | StoredChunks":
    """Return the fastest reader that this store's layout allows."""
    local = "://" not in store.url and hasattr(os, "posix_fadvise") and sys.byteorder == "little"
    return DirectChunks(store, tap) if local else StoredChunks(store, tap)


class _File:
    """An open file; closed when the last reader lets go of it."""

    __slots__ = ("handle",)

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __del__(self) -> None:
        os.close(self.handle)


class _Files:
    """Files kept open, the first opened let go first; safe to share between threads."""

    def __init__(self, limit: int) -> None:
        """Keep at most so many open, besides those that are being read from."""
        self._limit = limit
        self._open: dict[tuple[int, int], _File] = {}
        self._lock = threading.Lock()

    def find(self, key: tuple[int, int]) -> _File | None:
        """Return the file if it is open; it stays so as long as it is held."""
        return self._open.get(key)

    def open(self, key: tuple[int, int], path: Path) -> _File:
        """Return the file, opened now unless another thread has just done it."""
        with self._lock:
            if (file := self._open.get(key)) is None:
                file = self._open[key] = _File(os.open(path, os.O_RDONLY))
                if len(self._open) > self._limit:
                    del self._open[next(iter(self._open))]
            return file


_FILES = _Files(_OPEN_FILES)
_numbers = count()


class DirectChunks:
    """Chunks of a local store, by the shards' own index; safe to share between threads."""

    def __init__(self, store: Store, tap: str) -> None:
        """Open nothing yet; a shard's index is kept once it was read."""
        spec = store.root.layout.find(tap)
        self.dtype = np.dtype(spec.number_dtype).newbyteorder("<")
        self._store, self._tap, self._spec = store, tap, spec
        self._packed = threading.local()
        self._scenes, self._views = spec.grid[:2]
        self._stored_bytes = spec.chunk_bytes + _CRC_BYTES
        self._number = next(_numbers)  # a reader opened later may find other files at the paths
        self._indices: dict[int, memoryview] = {}

    def read_into(self, row: int, view: int, out: memoryview) -> bool:
        """Fill `out`, a view's bytes; tell whether they were in memory already.

        Raises:
            StoreError: The bytes are not those that were written.
        """
        if not self._spec.channels:
            return self._read(row, view, out)
        from vega3d.pipeline.store.packed import unpack_into  # readers of others need no compiler

        if not hasattr(self._packed, "buffer"):
            self._packed.buffer = page_aligned(self._spec.shape[2:], np.dtype(np.int8))
        at_once = self._read(row, view, bytes_of(self._packed.buffer))
        unpack_into(self._packed.buffer, np.frombuffer(out, self.dtype))
        return at_once

    def _read(self, row: int, view: int, out: memoryview) -> bool:
        """Fill `out` with a view's bytes as they are stored."""
        unit, scene = divmod(row, self._scenes)
        file, offset = self._place(unit, scene, view)
        stored = bytearray(_CRC_BYTES)
        count = _read_at_once(file.handle, (out, stored), offset)
        at_once = bool(count == self._stored_bytes)
        if not at_once:
            count = os.preadv(file.handle, (out, stored), offset)
        if count != self._stored_bytes:
            raise self._damaged(unit, scene, view, "is cut off")
        if crc32c(out) != int.from_bytes(stored, "little"):
            raise self._damaged(unit, scene, view, "does not match its checksum")
        return at_once

    def expect(self, row: int, view: int) -> None:
        """Ask the disk for a view that is read soon, and do not wait for it."""
        unit, scene = divmod(row, self._scenes)
        file, offset = self._place(unit, scene, view)
        os.posix_fadvise(file.handle, offset, self._stored_bytes, os.POSIX_FADV_WILLNEED)

    def _place(self, unit: int, scene: int, view: int) -> tuple[_File, int]:
        """Return the file, which stays open while it is held, and where the view begins."""
        key = (self._number, unit)
        file = _FILES.find(key) or self._open(key)
        index = self._indices.get(unit) or self._read_index(unit, file.handle)
        place = 2 * (scene * self._views + view)
        offset, length = index[place], index[place + 1]
        if offset == _MISSING or length != self._stored_bytes:
            raise self._damaged(unit, scene, view, "is not in the index")
        return file, offset

    def _open(self, key: tuple[int, int]) -> _File:
        path = self._path(key[1])
        try:
            return _FILES.open(key, path)
        except FileNotFoundError as error:
            raise StoreError(f"{path}: a committed shard is missing; {_REMEDY}") from error

    def _read_index(self, unit: int, handle: int) -> memoryview:
        size = self._scenes * self._views * 16
        start = os.fstat(handle).st_size - size - _CRC_BYTES
        raw = os.pread(handle, size + _CRC_BYTES, start) if start >= 0 else b""
        if len(raw) < size + _CRC_BYTES:
            raise StoreError(f"{self._path(unit)}: the shard is cut off; {_REMEDY}")
        if crc32c(raw[:size]) != int.from_bytes(raw[size:], "little"):
            path = self._path(unit)
            raise StoreError(f"{path}: the shard's index does not match its checksum; {_REMEDY}")
        index = self._indices[unit] = memoryview(raw[:size]).cast("Q")
        return index

    def _path(self, unit: int) -> Path:
        return Path(self._store.url, self._store.shard_key(self._tap, unit * self._scenes))

    def _damaged(self, unit: int, scene: int, view: int, what: str) -> StoreError:
        return StoreError(f"{self._path(unit)}: chunk ({scene}, {view}) {what}; {_REMEDY}")


_REMEDY = "run `vega3d-extract verify STORE --repair`, then the extraction again"


class StoredChunks:
    """Chunks of a store wherever it lies, read by its own reader; safe to share between threads."""

    def __init__(self, store: Store, tap: str) -> None:
        """Open nothing yet."""
        self.dtype = np.dtype(store.root.layout.find(tap).number_dtype).newbyteorder("<")
        self._store, self._tap = store, tap

    def expect(self, row: int, view: int) -> None:
        """Do nothing: a bucket cannot be told what comes."""

    def read_into(self, row: int, view: int, out: memoryview) -> bool:
        """Fill `out`, a view's bytes; False, for whether they were in memory is not known.

        Raises:
            StoreError: The bytes are not those that were written.
        """
        np.frombuffer(out, self.dtype)[:] = self._store.view(self._tap, row, view).ravel()
        return False


def _read_at_once(handle: int, buffers: tuple[memoryview, bytearray], offset: int) -> int:
    """Read what is in memory already; 0 where that is nothing, or cannot be told."""
    try:
        return os.preadv(handle, buffers, offset, AT_ONCE) if AT_ONCE else 0
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
            return 0
        raise
