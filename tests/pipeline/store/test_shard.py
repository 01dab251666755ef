from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.shard import morton_order, read_shard, shard_parts


@pytest.mark.parametrize(
    ("grid", "tail", "rows"),
    [((1, 5), (2, 3), 1), ((4, 6), (2, 2, 3), 4), ((8, 3), (1,), 5), ((3,), (4, 5), 3)],
)
def test_shard_bytes_are_those_of_zarr(
    tmp_path: Path, grid: tuple[int, ...], tail: tuple[int, ...], rows: int
) -> None:
    """Also where the array's last shard holds fewer scenes than a whole one."""
    block = np.random.default_rng(0).normal(size=(rows, *grid[1:], *tail)).astype(np.float32)
    block[0] = np.nan  # an all-NaN chunk is written like any other
    array = zarr.create_array(
        tmp_path / "a",
        shape=block.shape,
        chunks=(*[1] * len(grid), *tail),
        shards=(*grid, *tail),
        dtype="float32",
        compressors=[Crc32cCodec()],
        fill_value=float("nan"),
        config={"write_empty_chunks": True},
    )
    array[:] = block
    stored = (tmp_path / "a" / "c" / "/".join("0" * block.ndim)).read_bytes()
    assert b"".join(shard_parts(block, grid)) == stored


def test_morton_order_interleaves_the_bits_of_the_axes() -> None:
    # z-order of a 2 x 4 grid, by hand: bits (view1, view0, scene0) from high to low.
    assert morton_order((2, 4)) == (
        (0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3),
    )  # fmt: skip


def test_read_shard_finds_every_single_flipped_bit() -> None:
    block = np.arange(12, dtype=np.float16).reshape(2, 3, 2)
    raw = b"".join(shard_parts(block, (2, 3)))
    read_shard(raw, (2, 3), "ours")
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(StoreError, match="does not match its checksum"):
            read_shard(bytes(damaged), (2, 3), "ours")
    with pytest.raises(StoreError, match="index"):
        read_shard(raw[:20], (2, 3), "ours")
