"""A tap's features view by view, read into buffers by way of a cache in RAM."""

import threading

import numpy as np
import torch

from vega3d.pipeline.store.store import Store
from vega3d.train.chunks import DirectChunks, StoredChunks, open_chunks
from vega3d.train.pairing import AnyStore, Pairing


class FeatureCache:
    """Features kept in RAM once read, up to a limit; what came first stays.

    Nothing is thrown out: an epoch visits every view once, so the view that would be dropped is
    needed as soon as the one that would replace it.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Keep at most so many bytes; 0 keeps nothing."""
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._kept: dict[tuple[str, str, int], bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, int]) -> bytes | None:
        """Return a view's features, or None."""
        return self._kept.get(key)

    def offer(self, key: tuple[str, str, int], features: memoryview) -> None:
        """Keep a copy if there is room."""
        if self.size_bytes + features.nbytes > self.limit_bytes:
            return  # most views of a large data set end here: no lock for them
        with self._lock:
            if key in self._kept or self.size_bytes + features.nbytes > self.limit_bytes:
                return
            self.size_bytes += features.nbytes
            self._kept[key] = bytes(features)


class Stream:
    """One tap of a store, or of several read as one: views into buffers, by way of the cache."""

    def __init__(self, store: AnyStore, tap: str, name: str, cache: FeatureCache) -> None:
        """Open it; `name` tells the streams apart in the cache."""
        self._store, self._tap, self._name, self._cache = store, tap, name, cache
        self._readers: dict[str, DirectChunks | StoredChunks] = {}
        self._places: dict[str, tuple[DirectChunks | StoredChunks, int]] = {}
        self.num_channels = int(store.num_channels(tap))
        self.dtype = self._find(store.scene_ids[0])[0].dtype
        self.torch_dtype = torch.from_numpy(np.empty(0, self.dtype)).dtype

    def read_into(self, scene_id: str, view: int, out: memoryview) -> bool:
        """Fill `out`, bytes of tokens by channels; False where a disk may have been waited for."""
        reader, row = self._places.get(scene_id) or self._find(scene_id)
        if not self._cache.limit_bytes:
            return reader.read_into(row, view, out)
        key = (self._name, scene_id, view)
        if (kept := self._cache.get(key)) is not None:
            out[:] = kept
            return True
        at_once = reader.read_into(row, view, out)
        self._cache.offer(key, out)
        return at_once

    def expect(self, scene_id: str, view: int) -> None:
        """Ask the disk for a view that is read soon, unless it is in the cache."""
        if self._cache.get((self._name, scene_id, view)) is None:
            reader, row = self._places.get(scene_id) or self._find(scene_id)
            reader.expect(row, view)

    def _find(self, scene_id: str) -> tuple[DirectChunks | StoredChunks, int]:
        store = self._store if isinstance(self._store, Store) else self._store.home[scene_id]
        if store.url not in self._readers:
            self._readers[store.url] = open_chunks(store, self._tap)
        place = self._places[scene_id] = self._readers[store.url], store.row(scene_id)
        return place


def streams_of(pairing: Pairing, cache: FeatureCache | None = None) -> tuple[Stream, Stream]:
    """Open the generative and the semantic stream."""
    cache = FeatureCache(0) if cache is None else cache
    return (
        Stream(pairing.prior, pairing.prior_tap, "prior", cache),
        Stream(pairing.semantic, pairing.semantic_tap, "semantic", cache),
    )
