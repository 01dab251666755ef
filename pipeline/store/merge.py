"""Merging commit records into the small arrays that readers who know nothing of us see."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.commits import Record, SceneRecord, read_records
from vega3d.pipeline.store.layout import ArraySpec, chunk_object
from vega3d.pipeline.store.objects import Objects, open_objects, zarr_store
from vega3d.pipeline.store.writer import StoreWriter


def merge_commits(writer: StoreWriter) -> dict[int, Record]:
    """Write poses, view ids, the committed mask and channel statistics; returns the commits.

    Raises:
        StoreError: A committed shard is damaged.
    """
    objects = open_objects(writer.url)
    records = {
        unit: record for unit, record in read_records(objects).items() if record.kind == "commit"
    }
    for key, chunk in merged_objects(writer, records).items():
        _put_if_changed(objects, key, chunk)
    return records


def merged_objects(writer: StoreWriter, records: Mapping[int, Record]) -> dict[str, bytes]:
    """Return the only chunk of each merged array, by its key."""
    scenes = [scene for record in records.values() for scene in record.scenes]
    values = {
        spec: _stats(writer, spec, scenes)
        if spec.name.startswith("stats_")
        else _merged(spec, scenes)
        for spec in writer.merged
    }
    return dict(chunk_object(spec, array) for spec, array in values.items())


def channel_stats(moments: Iterable[np.ndarray], channels: int) -> np.ndarray:
    """Return mean, standard deviation and absolute maximum of each channel, [3, C].

    Args:
        moments: Of each scene, [4, C]: count, sum, sum of squares, absolute maximum (`MOMENTS`).
        channels: C; the statistics of no scene are NaN.
    """
    sums, absmax = np.zeros((3, channels)), np.full(channels, np.nan)
    for scene in moments:
        sums += scene[:3]
        absmax = np.fmax(absmax, scene[3])
    count, total, squares = sums
    with np.errstate(invalid="ignore"):
        mean = total / count
        variance = np.maximum(squares / count - mean**2, 0.0)
    return np.stack([mean, np.sqrt(variance), absmax])


def _stats(writer: StoreWriter, spec: ArraySpec, scenes: Sequence[SceneRecord]) -> np.ndarray:
    import zarr

    name = spec.name.replace("stats_", "moments_")
    array = zarr.open_array(zarr_store(writer.url), path=name, mode="r")
    rows = (np.asarray(array[scene.row]) for scene in scenes if not scene.failure)
    try:
        return channel_stats(rows, spec.shape[-1])
    except ValueError as error:  # zarr's word for a checksum that does not match
        raise StoreError(
            f"{writer.url}: {name} is damaged ({error}); run `vega3d-extract verify STORE "
            "--repair`, then the same command again"
        ) from error


def _merged(spec: ArraySpec, scenes: Sequence[SceneRecord]) -> np.ndarray:
    fill: Mapping[str, object] = {"string": "", "bool": False, "int32": 0}
    dtype = object if spec.dtype == "string" else spec.dtype
    values = np.full(spec.shape, fill.get(spec.dtype, np.nan), dtype=dtype)
    for scene in scenes:
        count = len(scene.view_ids)
        if spec.name == "committed":
            values[scene.row] = not scene.failure
        elif spec.name == "num_views":
            values[scene.row] = count
        elif spec.name in ("failure", "content_sha256"):
            values[scene.row] = getattr(scene, spec.name)
        elif spec.name == "view_id":
            values[scene.row, :count] = scene.view_ids
        else:
            for view, value in enumerate(getattr(scene, spec.name)):
                if value is not None:
                    values[scene.row, view] = value
    return values


def _put_if_changed(objects: Objects, key: str, chunk: bytes) -> None:
    try:
        if objects.read(key) == chunk:
            return
    except FileNotFoundError:
        pass
    objects.replace(key, [chunk])
