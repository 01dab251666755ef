"""The arrays of a store and their metadata: Zarr v3, sharded, every chunk with its crc32c.

Letters: scene, view, row, col, channel are the dimensions' names on disk as well. All shapes are
final when the store is created; what is not real is NaN (or 0, or "" by type).
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.identity import READABLE_FORMATS
from vega3d.pipeline.store.objects import MAX_PUT_BYTES
from vega3d.pipeline.store.units import Plan

PREVIEW_PX = 8
"""Side of a token in the preview pictures, px."""

MOMENTS = ("count", "sum", "sum_of_squares", "absmax")
"""Rows of a tap's `moments_...` array, per channel, over the tokens of a scene."""

STATS = ("mean", "std", "absmax")
"""Rows of a tap's `stats_...` array, per channel, over all committed scenes."""

_CAMERA = ("camera_row", "camera_col")
_INTRINSIC = ("pixel_row", "pixel_col")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """One array: sharded by unit where `grid_axes` is set, one small chunk where it is not."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    grid_axes: int = 0
    """Leading axes that are cut into chunks of one: (scene, view), or (scene,)."""

    def grid(self, scenes_per_shard: int) -> tuple[int, ...]:
        """Return how many chunks a whole shard has along each leading axis."""
        return (scenes_per_shard, *self.shape[1 : self.grid_axes])

    def shard_shape(self, scenes_per_shard: int) -> tuple[int, ...]:
        """Return the shape of a whole shard."""
        return (scenes_per_shard, *self.shape[1:])

    def shard_bytes(self, scenes_per_shard: int, scenes: int) -> int:
        """Return the size of a shard that holds so many scenes: chunks, checksums, and index."""
        chunks = int(np.prod(self.grid(scenes)))
        values = int(np.prod(self.shard_shape(scenes)))
        index = 16 * int(np.prod(self.grid(scenes_per_shard))) + 4
        return values * np.dtype(self.dtype).itemsize + 4 * chunks + index

    def shard_key(self, unit: int) -> str:
        """Return the name of a unit's shard."""
        return "/".join([self.name, "c", str(unit), *["0"] * (len(self.shape) - 1)])


def unit_arrays(
    plan: Plan, taps: Sequence[str], channels: int, grid: tuple[int, int], store_dtype: str
) -> tuple[ArraySpec, ...]:
    """Return the arrays of which every unit writes one shard.

    Raises:
        StoreError: A shard would be larger than one PUT to a bucket may be.
    """
    scenes, views = len(plan.scenes), plan.max_views
    token = ("scene", "view", "row", "col")
    cells = (scenes, views, *grid)
    preview = (scenes, views, grid[0] * PREVIEW_PX, grid[1] * PREVIEW_PX, 3)
    specs = [
        ArraySpec(name=tap, dims=(*token, "channel"), shape=(*cells, channels), dtype=store_dtype,
                  grid_axes=2)
        for tap in taps
    ]  # fmt: skip
    specs += [
        ArraySpec(name=f"moments_{tap}", dims=("scene", "moment", "channel"),
                  shape=(scenes, len(MOMENTS), channels), dtype="float64", grid_axes=1)
        for tap in taps
    ]  # fmt: skip
    for name in ("world_xyz", "center_xyz"):
        specs.append(
            ArraySpec(name=name, dims=(*token, "axis"), shape=(*cells, 3), dtype="float32",
                      grid_axes=2)
        )  # fmt: skip
    for name in ("depth_share", "coverage"):
        specs.append(ArraySpec(name=name, dims=token, shape=cells, dtype="float32", grid_axes=2))
    dims = ("scene", "view", "preview_row", "preview_col", "rgb")
    specs.append(ArraySpec(name="preview", dims=dims, shape=preview, dtype="uint8", grid_axes=2))
    for spec in specs:
        if (size := spec.shard_bytes(plan.scenes_per_shard, plan.scenes_per_shard)) > MAX_PUT_BYTES:
            raise StoreError(
                f"{spec.name}: a shard of {plan.scenes_per_shard} scenes would take "
                f"{size / 2**30:.1f} GiB, and one PUT takes 5; "
                "use fewer --scenes-per-shard or --views"
            )
    return tuple(specs)


def merged_arrays(plan: Plan, taps: Sequence[str], channels: int) -> tuple[ArraySpec, ...]:
    """Return the small arrays that are merged from the commit records when a run ends."""
    scenes, views = len(plan.scenes), plan.max_views
    per_view = ("scene", "view")
    named = [
        ("committed", ("scene",), (scenes,), "bool"),
        ("num_views", ("scene",), (scenes,), "int32"),
        ("failure", ("scene",), (scenes,), "string"),
        ("content_sha256", ("scene",), (scenes,), "string"),
        ("view_id", per_view, (scenes, views), "string"),
        ("image_size", (*per_view, "side"), (scenes, views, 2), "int32"),
        ("world_from_camera", (*per_view, *_CAMERA), (scenes, views, 4, 4), "float64"),
        ("intrinsics", (*per_view, *_INTRINSIC), (scenes, views, 3, 3), "float64"),
    ]
    named += [
        (f"stats_{tap}", ("stat", "channel"), (len(STATS), channels), "float64") for tap in taps
    ]
    return tuple(
        ArraySpec(name=name, dims=dims, shape=shape, dtype=dtype)
        for name, dims, shape, dtype in named
    )


def fixed_arrays(plan: Plan) -> dict[ArraySpec, np.ndarray]:
    """Return the small arrays whose values are known from the plan."""
    scenes = len(plan.scenes)
    step = plan.scenes_per_shard
    ids = np.array([scene.scene_id for scene in plan.scenes], dtype=object)
    return {
        ArraySpec(name="scene", dims=("scene",), shape=(scenes,), dtype="string"): ids,
        ArraySpec(name="unit", dims=("scene",), shape=(scenes,), dtype="int32"): np.arange(
            scenes, dtype=np.int32
        )
        // step,
    }


def metadata_objects(
    specs: Sequence[ArraySpec], scenes_per_shard: int, attributes: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return every metadata document, as zarr writes it; the root's holds all of them.

    `attributes` go to the root group.
    """
    return _through_zarr(specs, scenes_per_shard, attributes, {})


def chunk_object(spec: ArraySpec, values: np.ndarray) -> tuple[str, bytes]:
    """Return the key and bytes of a small array's only chunk, as zarr encodes them."""
    key = "/".join([spec.name, "c", *["0"] * len(spec.shape)])
    return key, _through_zarr([spec], 1, {}, {spec.name: values})[key]


def _through_zarr(
    specs: Sequence[ArraySpec],
    scenes_per_shard: int,
    attributes: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
) -> dict[str, bytes]:
    import zarr
    from zarr.codecs import Crc32cCodec

    buffers: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(buffers)
    root = zarr.create_group(memory, zarr_format=3, attributes=dict(attributes))
    for spec in specs:
        sharded = spec.grid_axes > 0
        chunks = (*[1] * spec.grid_axes, *spec.shape[spec.grid_axes :])
        array = root.create_array(
            spec.name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=chunks,
            shards=spec.shard_shape(scenes_per_shard) if sharded else None,
            compressors=[Crc32cCodec()],
            fill_value=_fill_value(spec.dtype),
            dimension_names=spec.dims,
            config={"write_empty_chunks": True},
        )
        if spec.name in values:
            array[:] = values[spec.name]
    with warnings.catch_warnings():
        # zarr warns that consolidated metadata is an extension; DESIGN section 8 wants it.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(memory)
    return {key: buffer.to_bytes() for key, buffer in buffers.items()}


def _fill_value(dtype: str) -> float | str | bool:
    if dtype.startswith("float"):
        return float("nan")
    fills: dict[str, float | str | bool] = {"string": "", "bool": False}
    return fills.get(dtype, 0)


def parse_attributes(root: bytes) -> dict[str, Any]:
    """Return our part of the root group's attributes.

    Raises:
        StoreError: It is a Zarr group of somebody else's, or of a format that is not known here.
    """
    document = json.loads(root)
    ours = document.get("attributes", {}).get("vega3d")
    if document.get("zarr_format") != 3 or not isinstance(ours, dict):
        raise StoreError("not a vega3d store: its root has no vega3d attributes")
    if ours.get("format") not in READABLE_FORMATS:
        raise StoreError(
            f"a store of format {ours.get('format')}, and this version reads "
            f"{', '.join(map(str, READABLE_FORMATS))}; install the vega3d that wrote it, or a newer"
        )
    return ours
