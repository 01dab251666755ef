"""Merging commit records into the small arrays that readers who know nothing of us see."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vega3d.pipeline.commits import Record, SceneRecord, read_records
from vega3d.pipeline.layout import ArraySpec, chunk_object, merged_arrays
from vega3d.pipeline.objects import Objects, open_objects, zarr_store
from vega3d.pipeline.plan import Plan
from vega3d.pipeline.writer import StoreWriter


def merge_commits(writer: StoreWriter, plan: Plan) -> dict[int, Record]:
    """Write poses, view ids, the committed mask and channel statistics; returns the records."""
    objects = open_objects(writer.url)
    records = {
        unit: record for unit, record in read_records(objects).items() if record.kind == "commit"
    }
    scenes = [scene for record in records.values() for scene in record.scenes]
    channels = next(spec.shape[-1] for spec in writer.arrays if spec.name in writer.taps)
    for spec in merged_arrays(plan, writer.taps, channels):
        if spec.name.startswith("stats_"):
            values = _stats(writer, spec, scenes)
        else:
            values = _merged(spec, scenes)
        _put_if_changed(objects, *chunk_object(spec, values))
    return records


def channel_stats(moments: Iterable[np.ndarray]) -> np.ndarray:
    """Return mean, standard deviation and absolute maximum of each channel, [3, C].

    Args:
        moments: Of each scene, [4, C]: count, sum, sum of squares, absolute maximum (`MOMENTS`).
            Rows of failed scenes are NaN and left out.
    """
    real = [scene for scene in moments if not np.isnan(scene).any()]
    if not real:
        return np.full((3, 1), np.nan)
    count, total, squares = np.sum([scene[:3] for scene in real], axis=0)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0.0)
    return np.stack([mean, np.sqrt(variance), np.max([scene[3] for scene in real], axis=0)])


def _stats(writer: StoreWriter, spec: ArraySpec, scenes: Sequence[SceneRecord]) -> np.ndarray:
    import zarr

    array = zarr.open_array(
        zarr_store(writer.url), path=spec.name.replace("stats_", "moments_"), mode="r"
    )
    rows = (np.asarray(array[scene.row]) for scene in scenes if not scene.failure)
    return np.broadcast_to(channel_stats(rows), spec.shape)


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
