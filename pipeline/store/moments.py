"""Moments of a scene's channels, and the statistics of all scenes that follow from them.

Kept as mean and squared deviations, which merge without cancellation: a channel that is constant
has a standard deviation of 0. Letters: T taps, C channels.
Source: Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm (1979).
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.layout import ArraySpec, Layout
from vega3d.pipeline.store.objects import Objects
from vega3d.pipeline.store.reading import REMEDY, ShardReader, numbers_of
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.shard import Place, crc32c, shard_parts

_READERS = 16
_READ_AHEAD = 256
"""Units whose moments are read before the first of them is used up."""

_AT_ONCE = 16
"""Units that a thread reads one after the other."""


def scene_moments(features: np.ndarray) -> np.ndarray:
    """Return `MOMENTS` of each channel, float64 [4, C].

    Args:
        features: [V, gh, gw, C] as they are stored; tokens that hold a NaN are left out.
    """
    from vega3d.pipeline.store.one_pass import token_moments  # readers need no compiler

    tokens = features.reshape(-1, features.shape[-1])
    count, mean, deviations, absmax = token_moments(tokens)
    return np.stack([np.full(len(mean), float(count)), mean, deviations, absmax])


def merged_moments(scenes: Iterable[np.ndarray], *shape: int) -> np.ndarray:
    """Return the moments of all scenes together, float64 [..., 4, C]; NaN absmax of no scene.

    Args:
        scenes: The moments of each, [..., 4, C].
        shape: Of the leading axes, and C.
    """
    *leading, channels = shape
    total = np.zeros((*leading, 4, channels))
    total[..., 3, :] = np.nan
    count, mean, deviations, absmax = (total[..., k, :] for k in range(4))
    for scene in scenes:
        more, other, others_deviations, others_absmax = (scene[..., k, :] for k in range(4))
        both = np.maximum(count + more, 1.0)
        delta = other - mean
        deviations += others_deviations + delta**2 * count * more / both
        mean += delta * more / both
        count += more
        np.fmax(absmax, others_absmax, out=absmax)
    return total


def stats_of(moments: np.ndarray) -> np.ndarray:
    """Return `STATS` of each channel, float64 [..., 3, C]; NaN where there is no token."""
    count, mean, deviations, absmax = np.moveaxis(moments, -2, 0)
    known = np.where(count > 0, count, np.nan)
    return np.stack([mean * (known / known), np.sqrt(deviations / known), absmax], axis=-2)


def recomputed_moments(
    reader: ShardReader, layout: Layout, record: Record
) -> list[bytes | memoryview]:
    """Return the pieces of a unit's shard of moments, from its stored features.

    Equal to what was committed where numpy sums in the same order, which the caller asks the hash.

    Raises:
        StoreError: A shard of features is gone or damaged.
    """
    spec = layout.find("moments")
    keys = {key.split("/")[0]: key for key in record.objects}
    chunks: dict[Place, np.ndarray] = {}
    for row, scene in enumerate(record.scenes):
        if scene.failure:
            continue
        found = []
        for tap in layout.taps:
            places = [(row, view, 0, 0, 0) for view in range(len(scene.view_ids))]
            features = layout.find(tap)
            views = reader.read(features, keys[tap], places)
            if any(view is None for view in views):
                raise StoreError(f"unit {record.unit}: {keys[tap]} lacks a view of row {row}")
            stored = np.concatenate([v[0] for v in views if v is not None])
            found.append(scene_moments(numbers_of(features, stored)))
        chunks[row, 0, 0, 0] = np.ascontiguousarray(np.stack(found), dtype="<f8")
    return list(shard_parts(chunks, spec.grid))


def read_moments(
    objects: Objects, layout: Layout, commits: Mapping[int, Record]
) -> Iterator[np.ndarray]:
    """Yield the moments of each committed scene's taps, float64 [T, 4, C]."""
    spec, records = layout.find("moments"), list(commits.values())

    def read(start: int) -> list[np.ndarray]:
        return [m for r in records[start : start + _AT_ONCE] for m in _of_unit(objects, spec, r)]

    with ThreadPoolExecutor(_READERS) as pool:
        for first in range(0, len(records), _READ_AHEAD):
            last = min(first + _READ_AHEAD, len(records))
            for scenes in pool.map(read, range(first, last, _AT_ONCE)):
                yield from scenes


def _of_unit(objects: Objects, spec: ArraySpec, record: Record) -> Iterator[np.ndarray]:
    """Yield the moments of a unit's scenes: a shard is read at once, it holds little else."""
    key = next(key for key in record.objects if key.startswith("moments/"))
    name = f"{objects.url}/{key}"
    try:
        raw = objects.read(key, spec.shard_bytes(spec.grid[0]))
        for row, scene in enumerate(record.scenes):
            if not scene.failure:
                yield np.frombuffer(_chunk(raw, spec, row, name), "<f8").reshape(spec.chunk[1:])
    except FileNotFoundError as error:
        raise StoreError(f"{name} is committed but gone; {REMEDY}") from error
    except StoreError as error:
        raise StoreError(f"{error}: it is damaged; {REMEDY}") from error


def _chunk(raw: bytes, spec: ArraySpec, row: int, name: str) -> bytes:
    """Return a scene's chunk of a whole shard; numpy's way to ask it is slow for few numbers."""
    index = raw[-spec.index_bytes : -4]
    if len(raw) < spec.index_bytes or crc32c(index) != raw[-4:]:
        raise StoreError(f"{name}: the shard's index does not match its checksum")
    offset, length = (int.from_bytes(index[k : k + 8], "little") for k in (16 * row, 16 * row + 8))
    if length != spec.chunk_bytes + 4 or offset + length > len(raw) - spec.index_bytes:
        raise StoreError(f"{name}: the shard lacks row {row}")
    chunk = raw[offset : offset + length]
    if crc32c(chunk[:-4]) != chunk[-4:]:
        raise StoreError(f"{name}: chunk ({row}, 0, 0, 0) does not match its checksum")
    return chunk[:-4]
