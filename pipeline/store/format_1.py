"""Stores of format 1, which are read and never written: what lay where.

Every geometric quantity had an array of its own, as had the moments of each tap; shards were
dense, whatever the views of a scene; the numbers of a file's name were parted by slashes.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vega3d.pipeline.store import schema
from vega3d.pipeline.store.identity import canonical_json
from vega3d.pipeline.store.layout import PREVIEW_PX, ArraySpec, Index, Layout
from vega3d.pipeline.store.names import MAX_PUT_BYTES, check_key, check_text
from vega3d.pipeline.store.record import (
    MAX_RECORD_BYTES,
    ObjectRecord,
    Record,
    SceneRecord,
    pack_matrices,
)

_ALL: Index = (...,)


@dataclass(frozen=True, kw_only=True)
class LayoutOfFormat1(Layout):
    """The arrays of a store of format 1."""

    @cached_property
    def unit_arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays of which every unit wrote one shard."""
        gh, gw = self.tokens
        inner = {
            "world_xyz": ((gh, gw, 3), "float32"),
            "center_xyz": ((gh, gw, 3), "float32"),
            "depth_share": ((gh, gw), "float32"),
            "coverage": ((gh, gw), "float32"),
            "preview": ((gh * PREVIEW_PX, gw * PREVIEW_PX, 3), "uint8"),
        }
        taps = dict.fromkeys(self.taps, ((gh, gw, self.channels), self.store_dtype))
        return (
            *(self._dense(name, shape, dtype) for name, (shape, dtype) in (taps | inner).items()),
            *(self._moments_of(tap) for tap in self.taps),
        )

    def holds(self, quantity: str) -> tuple[ArraySpec, Index]:
        """Return which array holds a quantity of each view, and where in its chunks."""
        return self.find(quantity), _ALL

    def holds_moments(self, tap: str) -> tuple[ArraySpec, Index]:
        """Return which array holds a tap's moments of each scene, and where in its chunks."""
        return self.find(f"moments_{tap}"), _ALL

    def chunk_counts(self, spec: ArraySpec, views: Sequence[int]) -> range:
        """Return how many chunks a unit's shard has: all, real or not."""
        dense = len(views) * math.prod(spec.grid[1:])
        return range(dense, dense + 1)

    def _dense(self, name: str, inner: tuple[int, ...], dtype: str) -> ArraySpec:
        views = self.plan.max_views
        return ArraySpec(
            name=name,
            dims=(),
            shape=(len(self.plan.scenes), views, *inner),
            dtype=dtype,
            chunk=(1, 1, *inner),
            shard=(self.plan.scenes_per_shard, views, *inner),
            separator="/",
        )

    def _moments_of(self, tap: str) -> ArraySpec:
        return ArraySpec(
            name=f"moments_{tap}",
            dims=(),
            shape=(len(self.plan.scenes), 4, self.channels),
            dtype="float64",
            chunk=(1, 4, self.channels),
            shard=(self.plan.scenes_per_shard, 4, self.channels),
            separator="/",
        )


def moments_of_sums(sums: np.ndarray) -> np.ndarray:
    """Return format 2's moments, [4, C], of format 1's: count, sum, sum of squares, absmax."""
    count, total, squares, absmax = sums
    with np.errstate(invalid="ignore"):
        mean = total / count
        deviations = np.maximum(squares - count * mean**2, 0.0)
    return np.stack([count, mean, deviations, absmax])


def parse_record(raw: bytes, what: str) -> Record:
    """Return a record of format 1, which has no hash; raises SchemaError where it is damaged."""
    document = schema.load(raw, what, MAX_RECORD_BYTES)
    document = schema.members(
        document, what, ("format", "kind", "unit", "sequence", "objects", "scenes", "environment")
    )
    try:
        return Record(
            kind={"commit": "commit", "revoke": "revoke"}[document["kind"]],  # type: ignore[arg-type]
            unit=schema.whole(document["unit"], f"{what}: unit", 0, schema.MAX_SCENES),
            sequence=schema.whole(document["sequence"], f"{what}: sequence"),
            objects={
                check_key(key): ObjectRecord(
                    sha256=schema.sha256_text(entry["sha256"], what),
                    size=schema.whole(entry["size"], what, 0, MAX_PUT_BYTES),
                )
                for key, entry in document["objects"].items()
            },
            scenes=[_scene(dict(scene), what) for scene in document["scenes"]],
            environment=schema.plain(document["environment"], what),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise schema.SchemaError(f"{what}: not a commit record ({error!r})") from error


def _scene(scene: dict[str, Any], what: str) -> SceneRecord:
    for name, size in (("world_from_camera", 4), ("intrinsics", 3)):
        unknown = np.full((size, size), np.nan)
        matrices = [unknown if m is None else np.array(m, dtype=np.float64) for m in scene[name]]
        if any(matrix.shape != (size, size) for matrix in matrices):
            raise schema.SchemaError(f"{what}: {name} holds something that is no {size}x{size}")
        scene[name] = pack_matrices(np.stack(matrices)) if matrices else b""
    schema.whole(scene["row"], f"{what}: row", 0, schema.MAX_SCENES)
    views = schema.items(scene["view_ids"], f"{what}: view_ids", schema.MAX_VIEWS)
    scene["view_ids"] = tuple(check_text("view", schema.text(view, what)) for view in views)
    return SceneRecord(**scene)


def checksums(records: Iterable[Record]) -> str:
    """Return the digest of the checksums of all committed objects."""
    digest = hashlib.sha256()
    for record in records:
        names = sorted((key, entry.sha256) for key, entry in record.objects.items())
        digest.update(canonical_json([record.unit, names]))
    return digest.hexdigest()
