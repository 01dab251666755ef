"""Writing a store: its metadata first, then whole shards, then the commit that makes them count.

Any number of writers may work on one store. A shard is created once; only the writer of a unit
whose latest record is a `revoke` replaces it, and looks at the record again before each object.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.commits import (
    ROWS,
    RUNS,
    ObjectRecord,
    Record,
    put_record,
    read_record,
    read_records,
)
from vega3d.pipeline.store.identity import (
    FORMAT_VERSION,
    canonical_json,
    config_digest,
    differing_fields,
    sha256_of,
)
from vega3d.pipeline.store.layout import (
    ArraySpec,
    chunk_object,
    fixed_arrays,
    merged_arrays,
    metadata_objects,
    parse_attributes,
    unit_arrays,
)
from vega3d.pipeline.store.objects import TEMPORARY_SUFFIX, Objects, open_objects
from vega3d.pipeline.store.scene_arrays import (
    SceneArrays,
    SceneFailure,
    checked,
    scene_record,
    unit_block,
)
from vega3d.pipeline.store.shard import shard_parts, shards_agree
from vega3d.pipeline.store.units import Plan, Unit

ROOT = "zarr.json"
ROUNDS = 4
"""Times a writer starts over because another one wrote the same unit meanwhile."""

_log = logging.getLogger(__name__)


class _OvertakenError(Exception):
    """The unit's record changed, or a shard that is nobody's stood in the way: look again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreWriter:
    """Where units are written; small and picklable."""

    url: str
    arrays: tuple[ArraySpec, ...]
    """Of which each unit writes a shard."""

    merged: tuple[ArraySpec, ...]
    """Small ones, merged from the commit records."""

    taps: tuple[str, ...]
    scenes_per_shard: int
    numerics: Mapping[str, Any]
    """What changes the last bits of what is computed: kept, and not looked at here."""

    def write_unit(
        self,
        unit: Unit,
        scenes: Sequence[SceneArrays | SceneFailure],
        environment: Mapping[str, Any],
    ) -> Record:
        """Write a unit's shards, then its commit record; returns the commit that counts.

        A shard that is there already (an orphan's, or a second job's) is taken where it agrees
        with ours, and revoked and replaced where it does not.

        Raises:
            StoreError: Nothing can be written, or other writers never let go of the unit.
        """
        objects = open_objects(self.url)
        scenes = [checked(scene, self.arrays) for scene in scenes]
        for _ in range(ROUNDS):
            last = read_record(objects, unit.index)
            if last is not None and last.kind == "commit":
                return last
            try:
                names, ours = self._write_shards(objects, unit, scenes, last)
            except _OvertakenError:
                continue
            record = Record(
                kind="commit",
                unit=unit.index,
                sequence=0 if last is None else last.sequence + 1,
                objects=names,
                scenes=[scene_record(scene, unit.first_row + i) for i, scene in enumerate(scenes)],
                environment=environment if ours else {},  # of a shard taken over: unknown
            )
            if put_record(objects, record):
                return record
            self._heal(objects, unit.index, names)
        raise StoreError(
            f"{self.url}: other jobs keep writing unit {unit.index}; let one of them finish, "
            "then run the same command again"
        )

    def write_failed_unit(self, unit: Unit, reason: str) -> Record:
        """Record a unit that no worker could finish as failed, all its scenes with the reason."""
        return self.write_unit(
            unit, [SceneFailure(scene_id, reason) for scene_id in unit.scene_ids], {}
        )

    def _write_shards(
        self,
        objects: Objects,
        unit: Unit,
        scenes: Sequence[SceneArrays | SceneFailure],
        last: Record | None,
    ) -> tuple[dict[str, ObjectRecord], bool]:
        """Return the checksum of each shard, and whether all of them are this writer's bytes."""

        def write(spec: ArraySpec) -> tuple[str, ObjectRecord, bool]:
            key = spec.shard_key(unit.index)
            grid = spec.grid(self.scenes_per_shard)
            parts = list(shard_parts(unit_block(spec, scenes), grid))
            record = ObjectRecord(
                sha256=sha256_of(parts), size=sum(memoryview(part).nbytes for part in parts)
            )
            if last is not None:
                if read_record(objects, unit.index) != last:
                    raise _OvertakenError
                objects.replace(key, parts)
                return key, record, True
            if objects.create(key, parts):
                return key, record, True
            there = objects.read(key)
            found = ObjectRecord(sha256=sha256_of([there]), size=len(there))
            if found != record and not shards_agree(there, parts, grid, spec.dtype):
                _log.info("%s: a shard that is nobody's does not fit; replacing it", key)
                put_record(objects, Record(kind="revoke", unit=unit.index, sequence=0))
                raise _OvertakenError
            return key, found, found == record

        # At once, because what takes long is waiting for the disk or the bucket.
        with ThreadPoolExecutor(len(self.arrays)) as pool:
            written = list(pool.map(write, self.arrays))
        return {key: record for key, record, _ in written}, all(ours for *_, ours in written)

    def _heal(self, objects: Objects, unit: int, names: Mapping[str, ObjectRecord]) -> None:
        """Take back a commit of another writer whose shards ours replaced in the last moment."""
        winner = read_record(objects, unit)
        if winner is None or winner.kind == "revoke" or winner.objects == names:
            return
        for key, entry in winner.objects.items():
            if sha256_of([objects.read(key)]) != entry.sha256:
                revoke(objects, winner)
                return


def create_or_resume(
    url: str, plan: Plan, identity: Mapping[str, Any], numerics: Mapping[str, Any]
) -> StoreWriter:
    """Write a store's metadata, or check that the store there was made from the same settings.

    `identity` holds `config`, `taps`, `channels`, and whatever else decides the stored bytes.
    The numerics of a store that exists win over those given.

    Raises:
        StoreError: Another config or other scenes are there, or something that is no store.
    """
    writer = _writer(url, plan, identity, numerics)
    rows = canonical_json(plan.rows())
    ours = {
        "format": FORMAT_VERSION,
        "identity": dict(identity),
        "config_digest": config_digest(identity),
        "rows_sha256": sha256_of([rows]),
        "scenes_per_shard": plan.scenes_per_shard,
        "numerics": dict(numerics),
    }
    objects = open_objects(url)
    _refuse_foreign(objects)
    documents, chunks = fixed_objects(writer, plan, ours)
    if not objects.create(ROOT, [documents[ROOT]]):
        theirs = parse_attributes(objects.read(ROOT))
        check_written_here(url, theirs)
        _check_same(url, ours, theirs, objects, rows)
        writer = _writer(url, plan, identity, theirs["numerics"])
    for key, value in {**documents, **chunks, ROWS: rows}.items():
        objects.create(key, [value])
    return writer


def fixed_objects(
    writer: StoreWriter, plan: Plan, attributes: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the metadata documents and the chunks that are known from the plan."""
    fixed = fixed_arrays(plan)
    documents = metadata_objects(
        [*writer.arrays, *writer.merged, *fixed],
        plan.scenes_per_shard,
        {"vega3d": dict(attributes), "coordinates": "unit committed num_views view_id"},
    )
    return documents, dict(chunk_object(spec, values) for spec, values in fixed.items())


def reopen(url: str, attributes: Mapping[str, Any], plan: Plan) -> StoreWriter:
    """Return the writer of a store that is there."""
    return _writer(url, plan, attributes["identity"], attributes["numerics"])


def check_written_here(url: str, attributes: Mapping[str, Any]) -> None:
    """Refuse to write to a store of an older format; raises StoreError."""
    if attributes["format"] != FORMAT_VERSION:
        raise StoreError(
            f"{url} is a store of format {attributes['format']}: it is read and verified, and "
            f"written no more (new stores have format {FORMAT_VERSION}). Extract into another "
            "--out, or go on with the version of vega3d that made it"
        )


def uncommitted(writer: StoreWriter, plan: Plan) -> list[Unit]:
    """Return the units still to do, in order."""
    records = read_records(open_objects(writer.url))
    done = {unit for unit, record in records.items() if record.kind == "commit"}
    return [unit for unit in plan.units if unit.index not in done]


def revoke_failed(writer: StoreWriter) -> int:
    """Take back the commits of units with failed scenes; returns how many there were."""
    objects = open_objects(writer.url)
    failed = [
        record
        for record in read_records(objects).values()
        if record.kind == "commit" and any(scene.failure for scene in record.scenes)
    ]
    for record in failed:
        revoke(objects, record)
    return len(failed)


def revoke(objects: Objects, record: Record) -> None:
    """Take a commit back, so that its unit's shards may be replaced."""
    put_record(objects, Record(kind="revoke", unit=record.unit, sequence=record.sequence + 1))


def _writer(
    url: str, plan: Plan, identity: Mapping[str, Any], numerics: Mapping[str, Any]
) -> StoreWriter:
    taps, channels = tuple(identity["taps"]), int(identity["channels"])
    rows, cols = identity["config"]["grid"]
    store_dtype = identity["config"]["store_dtype"]
    return StoreWriter(
        url=url,
        arrays=unit_arrays(plan, taps, channels, (rows, cols), store_dtype),
        merged=merged_arrays(plan, taps, channels),
        taps=taps,
        scenes_per_shard=plan.scenes_per_shard,
        numerics=numerics,
    )


def _refuse_foreign(objects: Objects) -> None:
    """Refuse a place that holds something else; logs and litter of a start cut short are ours."""
    try:
        objects.read(ROOT)
    except FileNotFoundError:
        for key in objects.keys(""):
            if not key.endswith(TEMPORARY_SUFFIX) and not key.startswith(RUNS):
                raise StoreError(
                    f"{objects.url} is not empty ({key}) and holds no store; "
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
    if ours["rows_sha256"] != theirs["rows_sha256"]:
        raise StoreError(_other_scenes(url, objects, rows))
    if ours["scenes_per_shard"] != theirs["scenes_per_shard"]:
        raise StoreError(
            f"{url} has {theirs['scenes_per_shard']} scenes a shard, and this source gives "
            f"{ours['scenes_per_shard']} (its tars hold other numbers of scenes); use the tars "
            "that the store was made from, or write to another --out"
        )


def _other_scenes(url: str, objects: Objects, rows: bytes) -> str:
    try:
        there = {row["scene_id"]: row for row in json.loads(objects.read(ROWS))}
    except FileNotFoundError:
        there = {}
    mine = {row["scene_id"]: row for row in json.loads(rows)}
    new, gone = sorted(mine.keys() - there.keys()), sorted(there.keys() - mine.keys())
    changed = sorted(name for name in mine.keys() & there.keys() if mine[name] != there[name])
    return (
        f"{url} was planned for other scenes: {len(new)} new {new[:3]}, {len(gone)} missing "
        f"{gone[:3]}, {len(changed)} with other views {changed[:3]}. A store never grows: write "
        "new scenes to a store of their own; open_store([a, b]) reads both as one"
    )
