"""The bytes of one Zarr v3 shard: chunks, then the (offset, length) index, then its crc32c.

Laid out directly because going through zarr reads the old shard first and copies more; the test
compares with zarr's own bytes. Every chunk ends in its crc32c, as does the index.
Source: https://zarr-specs.readthedocs.io, codecs `sharding_indexed` and `crc32c`, version 1.0.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from fastcrc.crc32 import iscsi as crc32c

from vega3d.pipeline.errors import StoreError

TOLERANCE = 2e-3
"""Relative L2 within which float arrays of two machines are taken for the same: float16 keeps 11
bits, and float32 kernels differ by about 1e-7, which flips few of them."""

_MISSING = 2**64 - 1


def shard_parts(block: np.ndarray, grid: tuple[int, ...]) -> Iterator[bytes | memoryview]:
    """Yield the pieces of a shard, in order.

    Args:
        block: The data, little-endian and contiguous; its leading `len(grid)` axes count chunks,
            and may be shorter than `grid` in the array's last shard.
        grid: Chunks of a full shard along each leading axis.
    """
    present = block.shape[: len(grid)]
    offsets = np.full((*grid, 2), _MISSING, dtype="<u8")
    offset = 0
    for position in morton_order(grid):
        if any(index >= count for index, count in zip(position, present, strict=True)):
            continue
        chunk = block[position].reshape(-1).view(np.uint8)
        yield chunk.data
        yield _crc32c(chunk)
        offsets[position] = offset, chunk.nbytes + 4
        offset += chunk.nbytes + 4
    index = offsets.reshape(-1).view(np.uint8)
    yield index.data
    yield _crc32c(index)


def read_shard(raw: bytes, grid: tuple[int, ...], name: str) -> dict[tuple[int, ...], np.ndarray]:
    """Return the bytes of every chunk of a shard that is there, by its place in the grid.

    Raises:
        StoreError: The index or a chunk does not match its checksum; the message names it.
    """
    size = int(np.prod(grid)) * 16 + 4
    data = np.frombuffer(raw, dtype=np.uint8)
    if data.size < size or _crc32c(data[-size:-4]) != data[-4:].tobytes():
        raise StoreError(f"{name}: the shard's index does not match its checksum")
    index = data[-size:-4].view("<u8").reshape(*grid, 2)
    chunks = {}
    for position in np.ndindex(*grid):
        offset, length = (int(number) for number in index[position])
        if offset == _MISSING:
            continue
        chunk = data[offset : offset + length]
        if _crc32c(chunk[:-4]) != chunk[-4:].tobytes():
            raise StoreError(f"{name}: chunk {position} does not match its checksum")
        chunks[position] = chunk[:-4]
    return chunks


def shards_agree(
    there: bytes, parts: Sequence[bytes | memoryview], grid: tuple[int, ...], dtype: str
) -> bool:
    """Say whether two shards hold the same: equal integers, equal NaNs, floats within TOLERANCE."""
    try:
        theirs = read_shard(there, grid, "there")
    except StoreError:
        return False
    ours = read_shard(b"".join(parts), grid, "ours")
    if theirs.keys() != ours.keys():
        return False
    return all(_close(theirs[place], ours[place], dtype) for place in ours)


def _close(left: np.ndarray, right: np.ndarray, dtype: str) -> bool:
    if left.size != right.size:
        return False
    a, b = left.view(dtype), right.view(dtype)
    if not dtype.startswith("float"):
        return bool(np.array_equal(a, b))
    real = ~np.isnan(a)
    if not np.array_equal(real, ~np.isnan(b)):
        return False
    a, b = a[real].astype(np.float64), b[real].astype(np.float64)
    return bool(np.linalg.norm(a - b) <= TOLERANCE * np.linalg.norm(b))


@lru_cache(maxsize=64)
def morton_order(grid: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the positions of a grid in the order in which zarr-python lays out chunks.

    Bits are interleaved from the lowest up, the first axis first; an axis drops out once its
    bits are used up.
    """
    bits = [(count - 1).bit_length() for count in grid]

    def code(position: tuple[int, ...]) -> int:
        value = shift = 0
        for level in range(max(bits, default=0)):
            for axis, index in enumerate(position):
                if level < bits[axis]:
                    value |= (index >> level & 1) << shift
                    shift += 1
        return value

    return tuple(sorted(np.ndindex(*grid), key=code))


def _crc32c(data: np.ndarray) -> bytes:
    return crc32c(data.data).to_bytes(4, "little")
