"""The bytes of one Zarr v3 shard: chunks, then the (offset, length) index, then its crc32c.

Laid out directly because going through zarr reads the old shard first and copies more; the test
compares with zarr's own bytes. Every chunk ends in its crc32c, as does the index; a chunk that is
left out costs its place in the index alone, and is the fill value to every reader.
Source: https://zarr-specs.readthedocs.io, codecs `sharding_indexed` and `crc32c`, version 1.0.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from fastcrc.crc32 import iscsi

from vega3d.pipeline.errors import StoreError

TOLERANCE = 2e-3
"""Relative L2 within which float arrays of two machines are taken for the same: float16 keeps 11
bits, and float32 kernels differ by about 1e-7, which flips few of them."""

MISSING = 2**64 - 1

Place = tuple[int, ...]
"""Of a chunk in its shard, along each axis."""

Buffer = bytes | memoryview | np.ndarray


def shard_parts(chunks: Mapping[Place, Buffer], grid: Place) -> Iterator[bytes | memoryview]:
    """Yield the pieces of a shard, in order.

    Args:
        chunks: The bytes of each chunk that is there: contiguous, numbers little-endian.
        grid: Chunks of a full shard along each axis.
    """
    offsets = np.full((*grid, 2), MISSING, dtype="<u8")
    one_axis = sum(count > 1 for count in grid) < 2  # then the order is that of the places
    places = sorted(chunks, key=None if one_axis else lambda place: morton_code(place, grid))
    lengths = []
    for place in places:
        chunk = bytes_of(chunks[place])
        yield chunk
        yield crc32c(chunk)
        lengths.append(chunk.nbytes + 4)
    if places:
        ends = np.cumsum(lengths)
        offsets[tuple(np.transpose(places))] = np.stack([ends - lengths, lengths], axis=1)
    index = bytes_of(offsets)
    yield index
    yield crc32c(index)


def read_index(tail: Buffer, grid: Place, name: str, size: int | None = None) -> np.ndarray:
    """Return a shard's index, uint64 [*grid, 2]: offset and length of each chunk, or `MISSING`.

    Args:
        tail: The shard's end, or all of it.
        grid: Chunks of a full shard along each axis.
        name: Of the shard, for the message.
        size: Of the whole shard, where `tail` is less.

    Raises:
        StoreError: It does not match its checksum, or names bytes that are not there.
    """
    data = np.frombuffer(tail, dtype=np.uint8)
    length = math.prod(grid) * 16
    raw, stored = data[-length - 4 : -4], data[-4:].tobytes()
    if data.size < length + 4 or crc32c(raw) != stored:
        raise StoreError(f"{name}: the shard's index does not match its checksum")
    index = raw.view("<u8").reshape(*grid, 2)
    room = (data.size if size is None else size) - length - 4
    offset, count = index[..., 0], index[..., 1]
    there = offset != MISSING
    if np.any(there & ((count < 4) | (offset > room) | (count > room - offset))):
        raise StoreError(f"{name}: the shard's index names bytes that are not in it")
    return index


def read_shard(raw: bytes, grid: Place, name: str) -> dict[Place, np.ndarray]:
    """Return the bytes of every chunk of a shard that is there, by its place in the grid.

    Raises:
        StoreError: The index or a chunk does not match its checksum; the message names it.
    """
    index = read_index(raw, grid, name)
    data = np.frombuffer(raw, dtype=np.uint8)
    chunks = {}
    for place in zip(*np.nonzero(index[..., 0] != MISSING), strict=True):
        offset, length = (int(number) for number in index[place])
        where = tuple(int(number) for number in place)
        chunks[where] = checked_chunk(data[offset : offset + length], f"{name}: chunk {where}")
    return chunks


def checked_chunk(stored: Buffer, name: str) -> np.ndarray:
    """Return a chunk without its checksum; raises StoreError where that does not match."""
    data = np.frombuffer(stored, dtype=np.uint8)
    if crc32c(data[:-4]) != data[-4:].tobytes():
        raise StoreError(f"{name} does not match its checksum")
    return data[:-4]


def shards_agree(
    there: bytes, parts: Sequence[bytes | memoryview], grid: Place, dtype: str
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


def morton_code(place: Place, grid: Place) -> int:
    """Return a number that grows in the order in which zarr-python lays out a grid's chunks.

    Bits are interleaved from the lowest up, the first axis first; an axis drops out once its
    bits are used up.
    """
    axes = [(index, (count - 1).bit_length()) for index, count in zip(place, grid, strict=True)]
    axes = [(index, bits) for index, bits in axes if bits]
    if len(axes) == 1:
        return axes[0][0]
    value = shift = 0
    for level in range(max((bits for _, bits in axes), default=0)):
        for index, bits in axes:
            if level < bits:
                value |= (index >> level & 1) << shift
                shift += 1
    return value


def bytes_of(values: Buffer) -> memoryview:
    """Return the memory of a contiguous array or buffer, byte by byte."""
    if isinstance(values, np.ndarray):
        return values.reshape(-1).view(np.uint8).data
    return memoryview(values).cast("B")


def crc32c(data: Buffer) -> bytes:
    """Return the four bytes of the Castagnoli checksum."""
    return iscsi(data if isinstance(data, bytes) else bytes_of(data)).to_bytes(4, "little")
