"""Writing a store: its metadata first, then whole shards, then the commit that makes them count."""

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vega3d.pipeline.commits import (
    ROWS,
    ObjectRecord,
    Record,
    SceneRecord,
    put_record,
    read_record,
    read_records,
)
from vega3d.pipeline.config import Numerics
from vega3d.pipeline.errors import SceneError, StoreError
from vega3d.pipeline.identity import (
    FORMAT_VERSION,
    canonical_json,
    config_digest,
    differing_fields,
    sha256_of,
)
from vega3d.pipeline.layout import (
    MOMENTS,
    ArraySpec,
    chunk_object,
    fixed_arrays,
    merged_arrays,
    metadata_objects,
    parse_attributes,
    unit_arrays,
)
from vega3d.pipeline.objects import TEMPORARY_SUFFIX, Objects, open_objects
from vega3d.pipeline.plan import Plan, Unit
from vega3d.pipeline.shard import check_shard, shard_parts

ROOT = "zarr.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneArrays:
    """The features of one scene and what the store keeps beside them; V views, gh x gw tokens."""

    scene_id: str
    features: Mapping[str, np.ndarray]
    """By tap, float32 [V, gh, gw, C]; NaN where `coverage` is 0."""

    view_ids: Sequence[str] = ()
    """Of each view; counted from "0" where left empty."""

    world_xyz: np.ndarray | None = None
    """[V, gh, gw, 3] metres: median over the token's pixels with depth; NaN where there is none."""

    center_xyz: np.ndarray | None = None
    """[V, gh, gw, 3] metres: at the token's centre pixel."""

    depth_share: np.ndarray | None = None
    """[V, gh, gw]: share of the token's pixels with depth; from `world_xyz` where left out."""

    coverage: np.ndarray | None = None
    """[V, gh, gw]: share of the token that the backbone saw; 1 where left out."""

    preview: np.ndarray | None = None
    """uint8 [V, 8 gh, 8 gw, 3]: the whole image, squashed to the grid."""

    world_from_camera: np.ndarray | None = None
    """[V, 4, 4]."""

    intrinsics: np.ndarray | None = None
    """[V, 3, 3] of the colour image, px."""

    image_size: np.ndarray | None = None
    """int [V, 2]: height, width, px."""

    content_sha256: str = ""
    dropped_views: int = 0


@dataclass(frozen=True, slots=True)
class SceneFailure:
    """A scene that could not be read or computed."""

    scene_id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreWriter:
    """Where units are written; small and picklable."""

    url: str
    arrays: tuple[ArraySpec, ...]
    taps: tuple[str, ...]
    scenes_per_shard: int
    numerics: Numerics

    def write_unit(
        self,
        unit: Unit,
        scenes: Sequence[SceneArrays | SceneFailure],
        environment: Mapping[str, Any],
    ) -> Record:
        """Write a unit's shards, then its commit record; returns the record that counts.

        A shard that is there already (an orphan's, or a second job's) is validated and taken.

        Raises:
            StoreError: A shard that is there does not fit, or nothing can be written.
        """
        objects = open_objects(self.url)
        last = read_record(objects, unit.index)
        if last is not None and last.kind == "commit":
            return last
        scenes = [_checked(scene, self.arrays) for scene in scenes]

        def write(spec: ArraySpec) -> tuple[str, ObjectRecord]:
            key = spec.shard_key(unit.index)
            block = _block(spec, scenes)
            return key, self._write_shard(objects, spec, key, block, replace=last is not None)

        # At once, because what takes long is waiting for the disk or the bucket.
        with ThreadPoolExecutor(len(self.arrays)) as pool:
            names = dict(pool.map(write, self.arrays))
        record = Record(
            kind="commit",
            unit=unit.index,
            sequence=0 if last is None else last.sequence + 1,
            objects=names,
            scenes=[_scene_record(scene, unit.first_row + i) for i, scene in enumerate(scenes)],
            environment=environment,
        )
        if put_record(objects, record):
            return record
        winner = read_record(objects, unit.index)
        assert winner is not None  # its name was taken a moment ago
        return winner

    def write_failed_unit(self, unit: Unit, reason: str) -> Record:
        """Record a unit that no worker could finish as failed, all its scenes with the reason."""
        return self.write_unit(
            unit, [SceneFailure(scene_id, reason) for scene_id in unit.scene_ids], {}
        )

    def _write_shard(
        self, objects: Objects, spec: ArraySpec, key: str, block: np.ndarray, *, replace: bool
    ) -> ObjectRecord:
        grid = spec.grid(self.scenes_per_shard)
        parts = list(shard_parts(block, grid))
        record = ObjectRecord(
            sha256=sha256_of(parts), size=sum(memoryview(p).nbytes for p in parts)
        )
        if replace:
            objects.replace(key, parts)
            return record
        if objects.create(key, parts):
            return record
        there = objects.read(key)
        found = ObjectRecord(sha256=sha256_of([there]), size=len(there))
        if found != record:
            _check_adoptable(there, grid, spec, block, f"{self.url}/{key}")
            _log.info("%s: taking the shard that is there already", key)
        return found


def create_or_resume(
    url: str, plan: Plan, identity: Mapping[str, Any], numerics: Numerics
) -> StoreWriter:
    """Write a store's metadata, or check that the store there was made from the same settings.

    `identity` holds `config`, `taps`, `channels`, and whatever else decides the stored bytes.
    The numerics of a store that exists win over those given.

    Raises:
        StoreError: Another config or other scenes are there, or something that is no store.
    """
    taps = tuple(identity["taps"])
    channels = int(identity["channels"])
    grid = tuple(identity["config"]["grid"])
    arrays = unit_arrays(
        plan, taps, channels, (grid[0], grid[1]), identity["config"]["store_dtype"]
    )
    merged = merged_arrays(plan, taps, channels)
    fixed = fixed_arrays(plan)
    rows = canonical_json(plan.rows())
    ours = {
        "format": FORMAT_VERSION,
        "identity": dict(identity),
        "config_digest": config_digest(identity),
        "rows_sha256": sha256_of([rows]),
        "scenes_per_shard": plan.scenes_per_shard,
        "numerics": asdict(numerics),
    }
    objects = open_objects(url)
    _refuse_foreign(objects)
    attributes = {"vega3d": ours, "coordinates": "unit committed num_views view_id"}
    specs = [*arrays, *merged, *fixed]
    documents = metadata_objects(specs, plan.scenes_per_shard, attributes)
    if not objects.create(ROOT, [documents[ROOT]]):
        theirs = parse_attributes(objects.read(ROOT))
        _check_same(url, ours, theirs, objects, rows)
        numerics = Numerics(**theirs["numerics"])
    for key, document in documents.items():
        objects.create(key, [document])
    for spec, values in fixed.items():
        key, chunk = chunk_object(spec, values)
        objects.create(key, [chunk])
    objects.create(ROWS, [rows])
    return StoreWriter(
        url=url,
        arrays=arrays,
        taps=taps,
        scenes_per_shard=plan.scenes_per_shard,
        numerics=numerics,
    )


def uncommitted(writer: StoreWriter, plan: Plan, *, retry_failed: bool = False) -> list[Unit]:
    """Return the units still to do; with `retry_failed`, take back those with failed scenes."""
    objects = open_objects(writer.url)
    records = read_records(objects)
    if retry_failed:
        for unit, record in list(records.items()):
            if record.kind == "commit" and any(scene.failure for scene in record.scenes):
                records[unit] = revoke(objects, record)
    done = {unit for unit, record in records.items() if record.kind == "commit"}
    return [unit for unit in plan.units if unit.index not in done]


def revoke(objects: Objects, record: Record) -> Record:
    """Take a commit back, so that its unit's shards may be replaced."""
    taken_back = Record(kind="revoke", unit=record.unit, sequence=record.sequence + 1)
    put_record(objects, taken_back)
    return taken_back


def _refuse_foreign(objects: Objects) -> None:
    try:
        objects.read(ROOT)
    except FileNotFoundError:
        found = next((key for key in objects.keys("") if not key.endswith(TEMPORARY_SUFFIX)), None)
        if found is not None:
            raise StoreError(
                f"{objects.url} is not empty ({found}) and holds no store; "
                "choose a new or an empty folder for --out"
            ) from None


def _check_same(
    url: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], objects: Objects, rows: bytes
) -> None:
    if ours["config_digest"] != theirs["config_digest"]:
        fields = differing_fields(ours["identity"], theirs["identity"])
        raise StoreError(
            f"{url} was made with another config: {theirs['config_digest'][:12]} there, "
            f"{ours['config_digest'][:12]} asked for. Differing: {'; '.join(fields[:8])}. "
            "Write to another --out, or ask for the same config"
        )
    if ours["rows_sha256"] == theirs["rows_sha256"]:
        return
    try:
        there = {row["scene_id"]: row for row in json.loads(objects.read(ROWS))}
    except FileNotFoundError:
        there = {}
    mine = {row["scene_id"]: row for row in json.loads(rows)}
    new, gone = sorted(mine.keys() - there.keys()), sorted(there.keys() - mine.keys())
    changed = sorted(name for name in mine.keys() & there.keys() if mine[name] != there[name])
    raise StoreError(
        f"{url} was planned for other scenes: {len(new)} new {new[:3]}, {len(gone)} missing "
        f"{gone[:3]}, {len(changed)} changed {changed[:3]}. A store never grows: write new scenes "
        "to a store of their own; open_store([a, b]) reads both as one"
    )


def _check_adoptable(
    there: bytes, grid: tuple[int, ...], spec: ArraySpec, block: np.ndarray, name: str
) -> None:
    """Check that a shard found in place holds the same scenes and views as ours."""
    remedy = "run `vega3d-extract verify STORE --repair`, then the same command again"
    try:
        check_shard(there, grid, name)
    except StoreError as error:
        raise StoreError(f"{error}; {remedy}") from error
    if not spec.dtype.startswith("float"):
        return
    size = int(np.prod(grid)) * 16 + 4
    index = np.frombuffer(there[-size:-4], dtype="<u8").reshape(*grid, 2)
    for position in np.ndindex(*block.shape[: len(grid)]):
        start, length = (int(number) for number in index[position])
        chunk = np.frombuffer(there, dtype=spec.dtype, count=(length - 4) // block.itemsize,
                              offset=start)  # fmt: skip
        if bool(np.isnan(chunk).all()) != bool(np.isnan(block[position]).all()):
            raise StoreError(
                f"{name}: a shard with other scenes or views is there already, at {position}; "
                f"did the source change, or could a scene be read only once? {remedy}"
            )


def _checked(
    scene: SceneArrays | SceneFailure, arrays: Sequence[ArraySpec]
) -> SceneArrays | SceneFailure:
    """Return the scene, or its failure where its numbers cannot be stored."""
    if isinstance(scene, SceneFailure):
        return scene
    try:
        for spec in arrays:
            if spec.name in scene.features:
                _check_features(scene, spec)
    except SceneError as error:
        return SceneFailure(scene.scene_id, str(error))
    return scene


def _check_features(scene: SceneArrays, spec: ArraySpec) -> None:
    features = scene.features[spec.name]
    if (
        features.ndim != 4
        or features.shape[0] > spec.shape[1]
        or features.shape[1:] != spec.shape[2:]
    ):
        raise StoreError(
            f"{scene.scene_id}: tap {spec.name} must be [views <= {spec.shape[1]}, "
            f"{', '.join(map(str, spec.shape[2:]))}], got {list(features.shape)}"
        )
    seen = features if scene.coverage is None else features[np.asarray(scene.coverage) > 0]
    absmax = np.abs(seen.reshape(-1, features.shape[-1])).max(axis=0, initial=0.0)
    if bad := np.flatnonzero(~np.isfinite(absmax)).tolist():
        raise SceneError(
            f"tap {spec.name}: channel {bad[0]} ({len(bad)} in all) is not finite; "
            "compute in float32 (--dtype float32) or look at the checkpoint"
        )
    limit = float(np.finfo(spec.dtype).max)
    if absmax.max(initial=0.0) > limit:
        channel = int(absmax.argmax())
        raise SceneError(
            f"tap {spec.name}: channel {channel} reaches {absmax[channel]:.6g}, and "
            f"{spec.dtype} ends at {limit:g}; store with --store-dtype float32"
        )


def _block(spec: ArraySpec, scenes: Sequence[SceneArrays | SceneFailure]) -> np.ndarray:
    """Return the unit's part of an array: one row a scene, NaN where nothing is real."""
    fill = np.nan if spec.dtype.startswith("float") else 0
    block = np.full(
        (len(scenes), *spec.shape[1:]), fill, dtype=np.dtype(spec.dtype).newbyteorder("<")
    )
    for row, scene in zip(block, scenes, strict=True):
        if isinstance(scene, SceneArrays):
            values = _values(spec.name, scene)
            if values is not None:
                row[: len(values)] = values
    return block


def _values(name: str, scene: SceneArrays) -> np.ndarray | None:
    if name in scene.features:
        return scene.features[name]
    if name.startswith("moments_"):
        return _moments(scene.features[name.removeprefix("moments_")])
    first = next(iter(scene.features.values()))
    if name == "coverage" and scene.coverage is None:
        return np.ones(first.shape[:-1], dtype=np.float32)
    if name == "depth_share" and scene.depth_share is None and scene.world_xyz is not None:
        return np.where(np.isfinite(scene.world_xyz).all(axis=-1), np.float32(1), np.float32(0))
    if name == "center_xyz" and scene.center_xyz is None:
        return scene.world_xyz
    beside: dict[str, np.ndarray | None] = {
        "world_xyz": scene.world_xyz,
        "center_xyz": scene.center_xyz,
        "depth_share": scene.depth_share,
        "coverage": scene.coverage,
        "preview": scene.preview,
    }
    return beside[name]


def _moments(features: np.ndarray) -> np.ndarray:
    tokens = features.reshape(-1, features.shape[-1]).astype(np.float64)
    tokens = tokens[~np.isnan(tokens).any(axis=1)]
    moments = {
        "count": np.full(tokens.shape[1], float(len(tokens))),
        "sum": tokens.sum(axis=0),
        "sum_of_squares": (tokens**2).sum(axis=0),
        "absmax": np.abs(tokens).max(axis=0, initial=0.0),
    }
    return np.stack([moments[name] for name in MOMENTS])


def _scene_record(scene: SceneArrays | SceneFailure, row: int) -> SceneRecord:
    if isinstance(scene, SceneFailure):
        return SceneRecord(scene_id=scene.scene_id, row=row, failure=scene.reason)
    count = len(next(iter(scene.features.values())))
    return SceneRecord(
        scene_id=scene.scene_id,
        row=row,
        content_sha256=scene.content_sha256,
        view_ids=tuple(scene.view_ids) or tuple(str(i) for i in range(count)),
        image_size=np.zeros((count, 2), int).tolist()
        if scene.image_size is None
        else np.asarray(scene.image_size).tolist(),
        world_from_camera=_matrices(scene.world_from_camera, count),
        intrinsics=_matrices(scene.intrinsics, count),
        dropped_views=scene.dropped_views,
    )


def _matrices(values: np.ndarray | None, count: int) -> list[list[list[float]] | None]:
    if values is None:
        return [None] * count
    matrices = np.asarray(values, dtype=np.float64)
    return [matrix.tolist() if np.isfinite(matrix).all() else None for matrix in matrices]
