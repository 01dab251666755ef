"""Moments of a scene's channels, and the statistics of all scenes that follow from them.

Kept as mean and squared deviations, which merge without cancellation: a channel that is constant
has a standard deviation of 0. Letters: T taps, C channels.
Source: Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm (1979).
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.ahead import in_order
from vega3d.pipeline.store.layout import ArraySpec, Layout
from vega3d.pipeline.store.objects import Objects
from vega3d.pipeline.store.reading import REMEDY, ShardReader, numbers_of
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.shard import Place, crc32c, shard_parts


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
    delta, both, part = (np.empty_like(mean) for _ in range(3))
    for scene in scenes:  # a store has many: nothing is allocated, and each step rounds as told
        more = scene[..., 0, :]
        np.maximum(np.add(count, more, out=both), 1.0, out=both)
        np.subtract(scene[..., 1, :], mean, out=delta)
        # deviations += theirs + delta^2 count more / both
        np.multiply(np.square(delta, out=part), count, out=part)
        np.divide(np.multiply(part, more, out=part), both, out=part)
        np.add(deviations, np.add(scene[..., 2, :], part, out=part), out=deviations)
        # mean += delta more / both
        np.divide(np.multiply(delta, more, out=delta), both, out=delta)
        np.add(mean, delta, out=mean)
        np.add(count, more, out=count)
        np.fmax(absmax, scene[..., 3, :], out=absmax)
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
    spec = layout.find("moments")
    for scenes in in_order(lambda record: [*_of_unit(objects, spec, record)], [*commits.values()]):
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
