"""Reading one view's features into memory that is already there, as fast as the disk gives them.

A chunk of the store is one view, uncompressed, followed by its crc32c (DESIGN, section 8). For a
local store it is read by one `preadv` through the shard's own index, straight into the batch's
(pinned) buffer, and its checksum is verified there. Whatever else zarr can read (a bucket, a
compressed store) is read through zarr. `tests/benchmarks/bench_train_speed.py` compares
the loader with plain reading of the same files.
"""

import json
import os
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.objects import zarr_store
from vega3d.pipeline.store import Store

_MISSING = 2**64 - 1
_CRC_BYTES = 4
_OPEN_FILES = 64  # of all stores together; the usual limit of a process is 1024


def open_chunks(store: Store, tap: str) -> "DirectChunks | ZarrChunks":
    """Return the fastest reader that this store's layout allows."""
    layout = _direct_layout(store.url, tap)
    return ZarrChunks(store, tap) if layout is None else DirectChunks(store.url, tap, layout)


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

    def get(self, key: tuple[int, int], path: Callable[[], Path]) -> _File:
        """Return the file, which stays open as long as it is held."""
        if (file := self._open.get(key)) is not None:
            return file
        with self._lock:
            if (file := self._open.get(key)) is None:
                file = self._open[key] = _File(os.open(path(), os.O_RDONLY))
                if len(self._open) > self._limit:
                    del self._open[next(iter(self._open))]
            return file


_FILES = _Files(_OPEN_FILES)
_numbers = count()


class DirectChunks:
    """Chunks of a local store, by the shards' own index; safe to share between threads."""

    def __init__(self, url: str, tap: str, layout: dict[str, Any]) -> None:
        """Open nothing yet; a shard's index is kept once it was read."""
        self.dtype = np.dtype(layout["data_type"]).newbyteorder("<")
        self._folder = Path(url, tap)
        self._scenes, self._views = layout["shards"][:2]
        self._trail = ["0"] * (len(layout["shards"]) - 1)
        self._payload_bytes = int(np.prod(layout["chunks"])) * self.dtype.itemsize
        self._number = next(_numbers)  # a reader opened later may find other files at the paths
        self._indices: dict[int, np.ndarray] = {}

    def read_into(self, row: int, view: int, out: np.ndarray) -> None:
        """Read one view; raises StoreError where the bytes are not those that were written."""
        unit, scene = divmod(row, self._scenes)
        payload = out.reshape(-1).view(np.uint8)
        stored = bytearray(_CRC_BYTES)
        handle = (file := self._file(unit)).handle
        offset, length = self._index(unit, handle)[scene, view].tolist()
        if offset == _MISSING or length != self._payload_bytes + _CRC_BYTES:
            raise self._damaged(unit, scene, view, "is not in the index")
        if os.preadv(handle, [payload.data, stored], offset) != length:
            raise self._damaged(unit, scene, view, "is cut off")
        del file  # held until here, so that nobody closes it
        if crc32c(payload) != int.from_bytes(stored, "little"):
            raise self._damaged(unit, scene, view, "does not match its checksum")

    def _file(self, unit: int) -> _File:
        try:
            return _FILES.get((self._number, unit), lambda: self._path(unit))
        except FileNotFoundError as error:
            path = self._path(unit)
            raise StoreError(f"{path}: a committed shard is missing; {_REMEDY}") from error

    def _index(self, unit: int, handle: int) -> np.ndarray:
        if unit in self._indices:
            return self._indices[unit]
        size = self._scenes * self._views * 16
        raw = os.pread(handle, size + _CRC_BYTES, os.fstat(handle).st_size - size - _CRC_BYTES)
        if crc32c(raw[:size]) != int.from_bytes(raw[size:], "little"):
            path = self._path(unit)
            raise StoreError(f"{path}: the shard's index does not match its checksum; {_REMEDY}")
        index = np.frombuffer(raw[:size], dtype="<u8").reshape(self._scenes, self._views, 2)
        self._indices[unit] = index
        return index

    def _path(self, unit: int) -> Path:
        return self._folder.joinpath("c", str(unit), *self._trail)

    def _damaged(self, unit: int, scene: int, view: int, what: str) -> StoreError:
        return StoreError(f"{self._path(unit)}: chunk ({scene}, {view}) {what}; {_REMEDY}")


_REMEDY = "run `vega3d-extract verify STORE --repair`, then the extraction again"


class ZarrChunks:
    """Chunks of any store that zarr can read; safe to share between threads."""

    def __init__(self, store: Store, tap: str) -> None:
        """Open the array."""
        import zarr

        self._array = zarr.open_array(zarr_store(store.url), path=tap, mode="r")
        self.dtype = np.dtype(self._array.dtype)
        self._name = f"{store.url}/{tap}"

    def read_into(self, row: int, view: int, out: np.ndarray) -> None:
        """Read one view; raises StoreError where the bytes are not those that were written."""
        try:
            out[...] = np.asarray(self._array[row, view]).reshape(out.shape)
        except ValueError as error:  # zarr's word for a checksum that does not match
            raise StoreError(f"{self._name}: ({row}, {view}) is damaged: {error}") from error


def _direct_layout(url: str, tap: str) -> dict[str, Any] | None:
    """Return shapes and type of a tap whose bytes can be read as they are, None of any other."""
    if "://" in url or not hasattr(os, "preadv"):
        return None
    meta = json.loads(Path(url, tap, "zarr.json").read_bytes())
    (codec, *others) = meta["codecs"]
    inner = codec.get("configuration", {})
    names = [step["name"] for step in inner.get("codecs", [])]
    little = all(
        step.get("configuration", {}).get("endian", "little") == "little"
        for step in inner.get("codecs", [])
    )
    plain = (
        codec["name"] == "sharding_indexed"
        and not others
        and names == ["bytes", "crc32c"]
        and little
        and inner.get("index_location", "end") == "end"
        and [step["name"] for step in inner["index_codecs"]] == ["bytes", "crc32c"]
        and list(inner["chunk_shape"][:2]) == [1, 1]
        and meta["chunk_key_encoding"]["name"] == "default"
        and meta["data_type"] in ("float16", "float32")
    )
    if not plain:
        return None
    shards = meta["chunk_grid"]["configuration"]["chunk_shape"]
    return {"data_type": meta["data_type"], "shards": shards, "chunks": inner["chunk_shape"]}
