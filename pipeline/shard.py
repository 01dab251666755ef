"""The bytes of one Zarr v3 shard: chunks, then the (offset, length) index, then its crc32c.

Laid out directly because going through zarr reads the old shard first and copies more; the test
compares with zarr's own bytes. Every chunk ends in its crc32c, as does the index.
Source: https://zarr-specs.readthedocs.io, codecs `sharding_indexed` and `crc32c`, version 1.0.
"""

from collections.abc import Iterator
from functools import lru_cache

import google_crc32c
import numpy as np

from vega3d.pipeline.errors import StoreError

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


def check_shard(raw: bytes, grid: tuple[int, ...], name: str) -> None:
    """Check every chunk and the index of a shard against their checksums.

    Raises:
        StoreError: The bytes are damaged; the message names the first chunk that is.
    """
    size = int(np.prod(grid)) * 16 + 4
    data = np.frombuffer(raw, dtype=np.uint8)
    if data.size < size or _crc32c(data[-size:-4]) != data[-4:].tobytes():
        raise StoreError(f"{name}: the shard's index does not match its checksum")
    index = data[-size:-4].view("<u8").reshape(*grid, 2)
    for position in np.ndindex(*grid):
        offset, length = (int(number) for number in index[position])
        if offset == _MISSING:
            continue
        chunk = data[offset : offset + length]
        if _crc32c(chunk[:-4]) != chunk[-4:].tobytes():
            raise StoreError(f"{name}: chunk {position} does not match its checksum")


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
    return int(google_crc32c.value(data)).to_bytes(4, "little")
