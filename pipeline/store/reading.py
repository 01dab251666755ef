"""Reading a store's chunks by the shards' own index: nothing is believed that has no checksum.

What a chunk must be follows from the plan, so the arrays' zarr.json is not looked at: damage there
hurts other readers, not this one.
"""

from collections.abc import Sequence

import numpy as np

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.layout import ArraySpec
from vega3d.pipeline.store.objects import Objects
from vega3d.pipeline.store.shard import MISSING, Place, checked_chunk, read_index

REMEDY = "run `vega3d-extract verify STORE --repair`, then the extraction again"

_INDICES_HELD = 64


class ShardReader:
    """Chunks of the shards of one store; safe to share between threads."""

    def __init__(self, objects: Objects) -> None:
        """Read nothing yet."""
        self._objects = objects
        self._indices: dict[str, np.ndarray] = {}

    def read(self, spec: ArraySpec, key: str, places: Sequence[Place]) -> list[np.ndarray | None]:
        """Return chunks of a shard, shaped as chunks are; None for each that is absent.

        Raises:
            StoreError: The shard is gone or damaged; the message says what to do.
        """
        name = f"{self._objects.url}/{key}"
        try:
            index = self.index(spec, key)
            spans = [(int(index[place][0]), int(index[place][1])) for place in places]
            for offset, length in spans:
                if offset != MISSING and length != spec.chunk_bytes + 4:
                    raise StoreError(f"{name}: a chunk has {length} bytes, which is not its size")
            there = [span for span in spans if span[0] != MISSING]
            stored = iter(self._objects.read_parts(key, there))
            return [
                None
                if offset == MISSING
                else checked_chunk(next(stored), f"{name}: chunk {place}")
                .view(np.dtype(spec.dtype).newbyteorder("<"))
                .reshape(spec.chunk)
                for place, (offset, _) in zip(places, spans, strict=True)
            ]
        except FileNotFoundError as error:
            raise StoreError(f"{name} is committed but gone; {REMEDY}") from error
        except StoreError as error:
            self._indices.pop(key, None)
            raise StoreError(f"{error}: it is damaged; {REMEDY}") from error

    def index(self, spec: ArraySpec, key: str) -> np.ndarray:
        """Return a shard's index, read once; raises FileNotFoundError and StoreError."""
        index = self._indices.get(key)
        if index is None:
            tail, size = self._objects.read_tail(key, spec.index_bytes)
            index = read_index(tail, spec.grid, f"{self._objects.url}/{key}", size)
            if len(self._indices) >= _INDICES_HELD:
                self._indices.clear()
            self._indices[key] = index
        return index


def numbers_of(spec: ArraySpec, values: np.ndarray) -> np.ndarray:
    """Return an array's values as numbers: packed tokens as float16, all else as it is."""
    if not spec.channels:
        return values
    from vega3d.pipeline.store.packed import unpacked  # readers of other stores need no compiler

    return unpacked(values, spec.channels)
