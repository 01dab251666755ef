from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.shard import crc32c, morton_code, read_shard, shard_parts


@pytest.mark.parametrize(
    ("grid", "tail", "rows"),
    [((1, 5), (2, 3), 1), ((4, 6), (2, 2, 3), 4), ((8, 3), (1,), 5), ((3,), (4, 5), 3)],
)
def test_shard_bytes_are_those_of_zarr(
    tmp_path: Path, grid: tuple[int, ...], tail: tuple[int, ...], rows: int
) -> None:
    """Also where the array's last shard holds fewer scenes, and where chunks are absent."""
    rng = np.random.default_rng(0)
    block = rng.normal(size=(rows, *grid[1:], *tail)).astype(np.float32)
    places = [place for place in np.ndindex(*block.shape[: len(grid)]) if rng.random() < 0.7]
    for place in set(np.ndindex(*block.shape[: len(grid)])) - set(places):
        block[place] = np.nan
    array = zarr.create_array(
        tmp_path / "a",
        shape=block.shape,
        chunks=(*[1] * len(grid), *tail),
        shards=(*grid, *tail),
        dtype="float32",
        compressors=[Crc32cCodec()],
        fill_value=float("nan"),
        config={"write_empty_chunks": False},
    )
    array[:] = block
    stored = (tmp_path / "a" / "c" / "/".join("0" * block.ndim)).read_bytes()
    inner = (0,) * len(tail)
    chunks = {(*place, *inner): block[place] for place in places}
    assert b"".join(shard_parts(chunks, (*grid, *[1] * len(tail)))) == stored


def test_morton_codes_interleave_the_bits_of_the_axes() -> None:
    # z-order of a 2 x 4 grid, by hand: bits (view1, view0, scene0) from high to low.
    order = sorted(np.ndindex(2, 4), key=lambda place: morton_code(place, (2, 4)))
    assert order == [
        (0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3),
    ]  # fmt: skip


def test_read_shard_finds_every_single_flipped_bit() -> None:
    block = np.arange(12, dtype=np.float16).reshape(2, 3, 2)
    raw = b"".join(shard_parts({place: block[place] for place in np.ndindex(2, 3)}, (2, 3)))
    read_shard(raw, (2, 3), "ours")
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(StoreError, match="does not match its checksum"):
            read_shard(bytes(damaged), (2, 3), "ours")
    with pytest.raises(StoreError, match="index"):
        read_shard(raw[:20], (2, 3), "ours")


def test_an_index_that_names_bytes_outside_the_shard_is_refused() -> None:
    """With a checksum that holds: damage made on purpose."""
    raw = b"".join(shard_parts({(0, 0): b"1234"}, (1, 2)))
    for offset, length in ((0, 2**63), (2**63, 8), (9, 8), (0, 3)):
        index = np.array([offset, length, 2**64 - 1, 2**64 - 1], dtype="<u8").tobytes()
        with pytest.raises(StoreError, match="names bytes that are not in it"):
            read_shard(raw[:8] + index + crc32c(index), (1, 2), "ours")
