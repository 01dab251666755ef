"""Merging commit records into the small arrays that readers who know nothing of us see.

Everything here is a copy: it can be written again from the records and shards at any time.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.committed import Committed
from vega3d.pipeline.store.identity import sha256_of
from vega3d.pipeline.store.index import INDEX, index_parts
from vega3d.pipeline.store.layout import ArraySpec, Layout
from vega3d.pipeline.store.metadata import chunk_files, encode, encode_texts, filled
from vega3d.pipeline.store.moments import merged_moments, read_moments, stats_of
from vega3d.pipeline.store.objects import Objects, Parts, open_objects
from vega3d.pipeline.store.record import Record, SceneRecord
from vega3d.pipeline.store.records import Records
from vega3d.pipeline.store.writer import StoreWriter


def merge_commits(writer: StoreWriter) -> dict[int, Record]:
    """Write the small arrays, the index, and moved shards to their places; returns the commits.

    Raises:
        StoreError: A record or a committed shard is damaged.
    """
    with _no_collection():
        return _merged(open_objects(writer.url), writer.layout)


def _merged(objects: Objects, layout: Layout) -> dict[int, Record]:
    commits = Committed(Records(objects), layout, keep=True).read_all()
    for place, key in moved_shards(layout, commits):
        publish(objects, place, key, commits[_unit_of(key)].objects[key].sha256)
    for key, parts in merged_objects(objects, layout, commits):
        _put_if_changed(objects, key, parts)
    return commits


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hold Python's search for circles: records have none, and it would look at each many times."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def merged_objects(
    objects: Objects, layout: Layout, commits: Mapping[int, Record]
) -> Iterator[tuple[str, Parts]]:
    """Yield the name and the pieces of each file of a small array, and of the index.

    Raises:
        StoreError: A committed shard is damaged.
    """
    scenes = [scene for record in commits.values() for scene in record.scenes]
    for spec in layout.merged_arrays:
        if spec.name == "stats":
            stats = _stats(objects, layout, commits)
            yield from chunk_files(spec, {(0, 0, 0): stats})
        else:
            yield from _files(spec, scenes)
    yield INDEX, index_parts(commits.values())


def moved_shards(layout: Layout, commits: Mapping[int, Record]) -> Iterator[tuple[str, str]]:
    """Yield the place in Zarr's grid, and the name, of each shard that is not at its place."""
    specs = {spec.name: spec for spec in layout.unit_arrays}
    for unit, record in commits.items():
        for key in record.moved:
            yield specs[key.split("/")[0]].file_key(unit), key


def publish(objects: Objects, place: str, key: str, sha256: str) -> None:
    """Copy a shard to its place in Zarr's grid, unless it is there."""
    if not published(objects, place, key, sha256):
        objects.copy(key, place)


def published(objects: Objects, place: str, key: str, sha256: str) -> bool:
    """Say whether a place in Zarr's grid holds the shard that was committed under another name."""
    try:
        return objects.same(key, place) or sha256_of([objects.read(place)]) == sha256
    except (FileNotFoundError, StoreError):
        return False


def _unit_of(key: str) -> int:
    return int(key.partition("/")[2].partition(".")[0])


def _stats(objects: Objects, layout: Layout, commits: Mapping[int, Record]) -> np.ndarray:
    """Return the statistics of every tap, float64 [T, 3, C]."""
    found = read_moments(objects, layout, commits)
    return stats_of(merged_moments(found, len(layout.taps), layout.channels))


def _files(spec: ArraySpec, scenes: Sequence[SceneRecord]) -> Iterator[tuple[str, Parts]]:
    """Yield the files of an array with values of each scene, or of each of its views."""
    if spec.shard is not None:
        yield from chunk_files(spec, dict(_view_chunks(spec, scenes)))
        return
    length = spec.chunk[0]
    values = filled(spec, -(-spec.shape[0] // length) * length)
    for scene in scenes:
        values[scene.row] = _of_scene(spec.name, scene)
    yield from chunk_files(spec, {(i,): part for i, part in enumerate(values.reshape(-1, length))})


def _of_scene(name: str, scene: SceneRecord) -> object:
    if name == "committed":
        return not scene.failure
    if name == "num_views":
        return len(scene.view_ids)
    return getattr(scene, name)


def _view_chunks(
    spec: ArraySpec, scenes: Sequence[SceneRecord]
) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Yield the bytes of the chunks that hold something, each of some views of one scene."""
    length, inner = spec.chunk[1], spec.chunk[2:]
    rest, nothing = [0] * len(inner), encode(spec, filled(spec, 1, length, *inner))
    for scene in scenes:
        if spec.dtype == "string":
            for block in range(-(-len(scene.view_ids) // length)):
                names = scene.view_ids[block * length : (block + 1) * length]
                yield (scene.row, block, *rest), _encode_names(tuple(names), length)
            continue
        values = _of_views(spec.name, scene)
        for block in range(-(-len(values) // len(nothing))):
            part = values[block * len(nothing) : (block + 1) * len(nothing)]
            yield (scene.row, block, *rest), part + nothing[len(part) :]


def _of_views(name: str, scene: SceneRecord) -> bytes:
    """Return what a record holds of each view, as the array's bytes: matrices lie so already."""
    if name in ("world_from_camera", "intrinsics"):
        found: bytes = getattr(scene, name)
        return found
    return _sizes(tuple(scene.image_size))


@lru_cache(maxsize=64)  # scenes of one camera
def _sizes(image_size: tuple[tuple[int, int], ...]) -> bytes:
    return np.array(image_size, dtype="<i4").tobytes()


_encode_names = lru_cache(maxsize=64)(encode_texts)


def _put_if_changed(objects: Objects, key: str, parts: Parts) -> None:
    chunk = b"".join(parts)
    try:
        if objects.size(key) == len(chunk) and objects.read(key) == chunk:
            return
    except (FileNotFoundError, StoreError):
        pass  # nothing, or nothing that can be read: it is written over
    objects.replace(key, [chunk])
