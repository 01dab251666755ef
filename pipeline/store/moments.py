"""Moments of a scene's channels, and the statistics of all scenes that follow from them.

Kept as mean and squared deviations, which merge without cancellation: a channel that is constant
has a standard deviation of 0. Letters: T taps, C channels.
Source: Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm (1979).
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.layout import Layout
from vega3d.pipeline.store.reading import ShardReader, numbers_of
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.shard import Place, shard_parts


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
    for scene in scenes:
        count, mean = total[..., 0, :], total[..., 1, :]
        more, other = scene[..., 0, :], scene[..., 1, :]
        both = np.maximum(count + more, 1.0)
        delta = other - mean
        total[..., 2, :] += scene[..., 2, :] + delta**2 * count * more / both
        total[..., 1, :] = mean + delta * more / both
        total[..., 0, :] = count + more
        total[..., 3, :] = np.fmax(total[..., 3, :], scene[..., 3, :])
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
    reader: ShardReader, layout: Layout, commits: Mapping[int, Record]
) -> Iterator[np.ndarray]:
    """Yield the moments of each committed scene's taps, float64 [T, 4, C]."""
    spec = layout.find("moments")
    for record in commits.values():
        key = next(key for key in record.objects if key.startswith("moments/"))
        rows = [row for row, scene in enumerate(record.scenes) if not scene.failure]
        for chunk in reader.read(spec, key, [(row, 0, 0, 0) for row in rows]):
            if chunk is None:
                raise StoreError(f"unit {record.unit}: {key} lacks a committed scene")
            yield chunk[0]
