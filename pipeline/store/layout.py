"""The arrays of a store: their shapes, their files, and which array holds what.

Letters: scene, view, row, col, channel are the dimensions' names on disk as well. All shapes are
final when the store is created. A unit writes one shard of every unit array; a chunk is one view,
and a view that is not real has no chunk (FORMAT.md). The small arrays are merged when a run ends.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from vega3d.pipeline.store.units import Plan

PREVIEW_PX = 8
"""Side of a token in the preview pictures, px."""

MOMENTS = ("count", "mean", "squared_deviations", "absmax")
"""Of the array `moments`, per channel, over the tokens of a scene."""

STATS = ("mean", "std", "absmax")
"""Of the array `stats`, per channel, over all committed scenes."""

GEOMETRY = (
    "world_x", "world_y", "world_z", "center_x", "center_y", "center_z", "depth_share", "coverage",
)  # fmt: skip
"""The numbers that the array `geometry` holds of each token."""

PACKED = "int8"
"""Type of a store whose tokens are packed into bytes, a code a number; see `packed.py`."""

_MOST_APART = 8
"""Of a token's numbers, kept in float16: transformers have fewer massive channels."""

_LABELS: Mapping[str, Sequence[str]] = {"quantity": GEOMETRY, "moment": MOMENTS, "stat": STATS}

Index = tuple[Any, ...]
"""What picks a quantity out of a chunk of its array."""

_EVERYTHING: Index = (...,)
_COLUMNS: Mapping[str, Index] = {
    "world_xyz": (..., slice(0, 3)),
    "center_xyz": (..., slice(3, 6)),
    "depth_share": (..., 6),
    "coverage": (..., 7),
}

_SCENES_A_FILE = 65_536
"""Of a small array with one value a scene."""

_BESIDE = 6
"""Rows, copy and index; settings, summary and one log."""

_COUNTED = 1024
"""Kinds of units whose numbers of chunks are kept."""

_VIEWS_A_CHUNK = 32
_FILE_BYTES = 2**28
"""Of a small array with values a view, were every view real."""


def num_apart(channels: int) -> int:
    """Return how many numbers of a packed token are kept apart.

    From 52 channels on it then takes at most 52 % of float16's bytes.
    """
    return min(_MOST_APART, max(0, channels // 64 - 1))


def packed_width(channels: int) -> int:
    """Return the bytes of a packed token."""
    return channels + 2 + 2 * num_apart(channels)


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One array. Where `shard` is set its chunks lie in shards, else each is a file."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    shard: tuple[int, ...] | None = None
    separator: str = "."
    """Between the numbers of a file's name; format 1 had "/"."""

    channels: int = 0
    """Of a token that is packed into bytes (`packed.py`); 0 where its numbers are stored plain."""

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Chunks of a whole shard along each axis."""
        assert self.shard is not None, self.name
        return tuple(math.ceil(s / c) for s, c in zip(self.shard, self.chunk, strict=True))

    @property
    def number_dtype(self) -> str:
        """Type of the numbers that readers get."""
        return "float16" if self.channels else self.dtype

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """Shape of a view's numbers."""
        return (*self.shape[2:-1], self.channels or self.shape[-1])

    @cached_property
    def chunk_bytes(self) -> int:
        """Size of a chunk of numbers, without its checksum."""
        return math.prod(self.chunk) * np.dtype(self.dtype).itemsize

    @cached_property
    def index_bytes(self) -> int:
        """Size of a shard's index, with its checksum."""
        return 16 * math.prod(self.grid) + 4

    def shard_bytes(self, chunks: int) -> int:
        """Return the size of a shard that holds so many chunks."""
        return chunks * (self.chunk_bytes + 4) + self.index_bytes

    def file_key(self, *place: int) -> str:
        """Return the name of the file at a place of the grid of files; axes left out are 0."""
        if len(place) == 1:  # a unit's: a store has many
            return f"{self._before_unit}{place[0]}{self._behind_unit}"
        numbers = [*place, *[0] * (len(self.shape) - len(place))]
        return f"{self.name}/" + self.separator.join(["c", *map(str, numbers)])

    @cached_property
    def _before_unit(self) -> str:
        return f"{self.name}/c{self.separator}"

    @cached_property
    def _behind_unit(self) -> str:
        return f"{self.separator}0" * (len(self.shape) - 1)

    def own_key(self, unit: int, sha256: str) -> str:
        """Return the name of a unit's shard that is not at its place in the grid."""
        return f"{self.name}/{unit:06d}.{sha256}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Every array of a store, from what it was planned for; see `format_1` for older stores."""

    plan: Plan
    taps: tuple[str, ...]
    channels: int
    tokens: tuple[int, int]
    """Rows and columns of the common token grid."""

    store_dtype: str

    @cached_property
    def unit_arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays of which every unit writes one shard: taps first."""
        gh, gw = self.tokens
        taps = [self._tap(tap) for tap in self.taps]
        previews = (gh * PREVIEW_PX, gw * PREVIEW_PX, 3)
        return (
            *taps,
            self._per_view("geometry", (gh, gw, len(GEOMETRY)), "float32"),
            self._per_view("preview", previews, "uint8"),
            self._moments(),
        )

    @cached_property
    def merged_arrays(self) -> tuple[ArraySpec, ...]:
        """The small arrays that are merged from the commit records when a run ends."""
        return (
            self._per_scene("committed", "bool"),
            self._per_scene("num_views", "int32"),
            self._per_scene("failure", "string"),
            self._per_scene("content_sha256", "string"),
            self._small_per_view("view_id", "string", {}),
            self._small_per_view("image_size", "int32", {"side": 2}),
            self._small_per_view(
                "world_from_camera", "float64", {"camera_row": 4, "camera_col": 4}
            ),
            self._small_per_view("intrinsics", "float64", {"pixel_row": 3, "pixel_col": 3}),
            self._stats(),
        )

    @cached_property
    def fixed_arrays(self) -> tuple[ArraySpec, ...]:
        """The small arrays whose values are known from the plan."""
        lengths = {"tap": len(self.taps), **{name: len(words) for name, words in _LABELS.items()}}
        return (
            self._per_scene("scene", "string"),
            self._per_scene("unit", "int32"),
            *(
                ArraySpec(name=n, dims=(n,), shape=(length,), dtype="string", chunk=(length,))
                for n, length in lengths.items()
            ),
        )

    def fixed_values(self, name: str) -> Sequence[str] | np.ndarray:
        """Return the values of one of `fixed_arrays`."""
        if name == "scene":
            return [scene.scene_id for scene in self.plan.scenes]
        if name == "unit":
            return np.arange(len(self.plan.scenes)) // self.plan.scenes_per_shard
        return _LABELS.get(name, self.taps)

    @property
    def reserved(self) -> frozenset[str]:
        """Names that no tap may have, in small letters: of other arrays, and of dimensions."""
        others = (*self.merged_arrays, *self.fixed_arrays, self._moments())
        names = {spec.name for spec in others} | set(_INNER_DIMS)
        dims = {dim for spec in others for dim in spec.dims}
        dims |= {"packed"} if self.store_dtype == PACKED else set()
        return frozenset(
            names | dims | {"row", "col"} | {d for i in _INNER_DIMS.values() for d in i}
        )

    @property
    def coordinates(self) -> str:
        """Names of the arrays that label others, as xarray wants them."""
        return "unit committed num_views view_id"

    def find(self, name: str) -> ArraySpec:
        """Return one of the unit arrays."""
        return next(spec for spec in self.unit_arrays if spec.name == name)

    def holds(self, quantity: str) -> tuple[ArraySpec, Index]:
        """Return which array holds a quantity of each view, and where in its chunks."""
        name = "geometry" if quantity in _COLUMNS else quantity
        return self.find(name), _COLUMNS.get(quantity, _EVERYTHING)

    def holds_moments(self, tap: str) -> tuple[ArraySpec, Index]:
        """Return which array holds a tap's moments of each scene, and where in its chunks."""
        return self.find("moments"), (self.taps.index(tap),)

    def chunk_counts(self, spec: ArraySpec, views: Sequence[int]) -> range:
        """Return how many chunks a shard may have.

        Args:
            spec: One of the unit arrays.
            views: Real views of each scene of the unit, 0 of one that failed.
        """
        if spec.name == "moments":
            real = sum(count > 0 for count in views)
            return range(real, real + 1)
        real = sum(views)
        return range(0 if spec.name == "preview" else real, real + 1)

    def unit_shard_sizes(self, views: tuple[int, ...]) -> dict[str, range]:
        """Return the sizes that a unit's shards may have, by name; kept: units are often alike."""
        if len(self._sizes) > _COUNTED:
            self._sizes.clear()
        if views not in self._sizes:
            self._sizes[views] = {
                spec.name: _sizes_of(spec, self.chunk_counts(spec, views))
                for spec in self.unit_arrays
            }
        return self._sizes[views]

    @cached_property
    def _sizes(self) -> dict[tuple[int, ...], dict[str, range]]:
        return {}

    def planned_bytes(self) -> Iterator[tuple[ArraySpec, int, int]]:
        """Yield each shard's array, unit and size where every planned view is real."""
        for spec in self.unit_arrays:
            for unit in self.plan.units:
                scenes = self.plan.scenes[unit.first_row : unit.first_row + len(unit.scene_ids)]
                most = self.chunk_counts(spec, [scene.num_views for scene in scenes])[-1]
                yield spec, unit.index, spec.shard_bytes(most)

    def num_files(self) -> int:
        """Return how many files the store will have: a run's log, settings and summary with them.

        A unit has its shards, its record and its notes; the rest does not grow with the units, but
        for a file of each small array a 65,536 scenes or 256 MiB.
        """
        small = (*self.merged_arrays, *self.fixed_arrays)
        each = [-(-spec.shape[0] // (spec.shard or spec.chunk)[0]) for spec in small]
        metadata = len(self.unit_arrays) + len(small) + 1
        return len(self.plan.units) * (len(self.unit_arrays) + 2) + sum(each) + metadata + _BESIDE

    def _tap(self, name: str) -> ArraySpec:
        if self.store_dtype != PACKED:
            return self._per_view(name, (*self.tokens, self.channels), self.store_dtype)
        spec = self._per_view(name, (*self.tokens, packed_width(self.channels)), PACKED)
        return replace(spec, dims=(*spec.dims[:-1], "packed"), channels=self.channels)

    def _per_view(self, name: str, inner: tuple[int, ...], dtype: str) -> ArraySpec:
        scenes, views = len(self.plan.scenes), self.plan.max_views
        return ArraySpec(
            name=name,
            dims=("scene", "view", *_INNER_DIMS.get(name, ("row", "col", "channel"))),
            shape=(scenes, views, *inner),
            dtype=dtype,
            chunk=(1, 1, *inner),
            shard=(self.plan.scenes_per_shard, views, *inner),
        )

    def _moments(self) -> ArraySpec:
        inner = (len(self.taps), len(MOMENTS), self.channels)
        return ArraySpec(
            name="moments",
            dims=("scene", "tap", "moment", "channel"),
            shape=(len(self.plan.scenes), *inner),
            dtype="float64",
            chunk=(1, *inner),
            shard=(self.plan.scenes_per_shard, *inner),
        )

    def _stats(self) -> ArraySpec:
        shape = (len(self.taps), len(STATS), self.channels)
        dims = ("tap", "stat", "channel")
        return ArraySpec(name="stats", dims=dims, shape=shape, dtype="float64", chunk=shape)

    def _per_scene(self, name: str, dtype: str) -> ArraySpec:
        scenes = len(self.plan.scenes)
        chunk = (min(scenes, _SCENES_A_FILE),)
        return ArraySpec(name=name, dims=("scene",), shape=(scenes,), dtype=dtype, chunk=chunk)

    def _small_per_view(self, name: str, dtype: str, inner: Mapping[str, int]) -> ArraySpec:
        """Chunks of some views of one scene, so that short scenes pay nothing for long ones."""
        scenes, views = len(self.plan.scenes), self.plan.max_views
        sizes = tuple(inner.values())
        chunk = min(views, _VIEWS_A_CHUNK)
        width = math.ceil(views / chunk) * chunk
        value_bytes = 16 if dtype == "string" else math.prod(sizes) * np.dtype(dtype).itemsize
        height = max(1, min(scenes, _FILE_BYTES // (width * value_bytes)))
        return ArraySpec(
            name=name,
            dims=("scene", "view", *inner),
            shape=(scenes, views, *sizes),
            dtype=dtype,
            chunk=(1, chunk, *sizes),
            shard=(height, width, *sizes),
        )


_INNER_DIMS = {
    "geometry": ("row", "col", "quantity"),
    "preview": ("preview_row", "preview_col", "rgb"),
}


def _sizes_of(spec: ArraySpec, counts: range) -> range:
    sizes = [spec.shard_bytes(count) for count in (counts[0], counts[-1])]
    return range(sizes[0], sizes[1] + 1, spec.chunk_bytes + 4)
