"""What is committed in a store: an index of the scenes in memory, the records on disk.

A record holds every pose of its scenes. All of them at once are more than the readers of a large
store want in memory, so a record is read again when it is asked for: it never changes.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.identity import FORMAT_VERSION, canonical_json
from vega3d.pipeline.store.index import IndexedRecord, read_environments, read_index
from vega3d.pipeline.store.layout import ArraySpec, Layout
from vega3d.pipeline.store.record import Record, SceneRecord
from vega3d.pipeline.store.records import Records, latest_places
from vega3d.pipeline.store.schema import SchemaError
from vega3d.pipeline.store.units import Unit

_RECORDS_HELD = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CommittedScene:
    """Where a scene's features are."""

    unit: int
    row: int
    view_ids: tuple[str, ...]
    content_sha256: str


class Committed(Mapping[int, Record]):
    """The commit of each unit, in the order of the units.

    Attributes:
        scenes: The scenes that have features.
        failures: Reason of each scene that failed.
        digests: Of each committed unit, in order: what was stored.
        sequences: Of the latest record of each unit that has one.
        stored_bytes: Of all committed shards.
    """

    def __init__(self, records: Records, layout: Layout, *, keep: bool = False) -> None:
        """Read the index, and those records that are not in it.

        Args:
            records: Of the store.
            layout: Of the same.
            keep: Whether records that are read stay in memory for `read_all`.

        Raises:
            StoreError: A record is damaged, or is not what the store was planned for.
        """
        self.scenes: dict[str, CommittedScene] = {}
        self.failures: dict[str, str] = {}
        self.digests: list[tuple[int, str]] = []
        self.sequences: dict[int, int] = dict(latest_places(records.listed()))
        self.stored_bytes = 0
        self._records = records
        self._layout = layout
        self._committed: dict[int, int] = {}
        self._moved: dict[tuple[int, str], str] = {}
        self._held: dict[int, Record] = {}
        self._indexed: dict[int, tuple[int, int]] = {}
        self._kept: dict[int, Record] | None = {} if keep else None
        shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # scenes often name views alike
        units = layout.plan.units
        for entry in self._entries(units):
            if not entry.committed:
                continue
            self._committed[entry.unit] = entry.sequence
            self.digests.append((entry.unit, entry.digest))
            self.stored_bytes += entry.stored_bytes
            for key in entry.moved:
                self._moved[entry.unit, key.split("/")[0]] = key
            unit = units[entry.unit]
            facts = zip(unit.scene_ids, entry.failures, entry.contents, entry.views, strict=True)
            for row, (scene_id, failure, content, views) in enumerate(facts, unit.first_row):
                if failure:
                    self.failures[scene_id] = failure
                else:
                    names = shared.setdefault(views, views)
                    self.scenes[scene_id] = CommittedScene(entry.unit, row, names, content)

    def __getitem__(self, unit: int) -> Record:
        """Read the commit of a unit."""
        record = self._held.get(unit)
        if record is None:
            record = self._read(unit)
            if len(self._held) >= _RECORDS_HELD:
                self._held.clear()
            self._held[unit] = record
        return record

    def __contains__(self, unit: object) -> bool:
        """Say whether a unit is committed; a mapping's own way would read its record."""
        return unit in self._committed

    def __iter__(self) -> Iterator[int]:
        """Iterate over the committed units."""
        return iter(self._committed)

    def __len__(self) -> int:
        """Return the number of committed units."""
        return len(self._committed)

    def scene(self, scene_id: str) -> SceneRecord:
        """Read everything that was recorded of one of `scenes`."""
        place = self.scenes[scene_id]
        return self[place.unit].scenes[place.row % self._layout.plan.scenes_per_shard]

    def key(self, spec: ArraySpec, unit: int) -> str:
        """Return the name of a committed unit's shard of an array."""
        return self._moved.get((unit, spec.name)) or spec.file_key(unit)

    def read_all(self) -> dict[int, Record]:
        """Read the commits of all units at once, many at a time."""
        kept = self._kept or {}
        wanted = [place for place in self._committed.items() if place[0] not in kept]
        read = {record.unit: record for record in self._records.read_many(wanted)}
        return {unit: kept.get(unit) or read[unit] for unit in self._committed}

    def environments(self) -> list[dict[str, Any]]:
        """Return the different machines and versions that took part, as they first come."""
        found: dict[int, dict[str, Any]] = {}
        if self._indexed:
            found = read_environments(self._records.objects, self._indexed)
        rest = [(unit, last) for unit, last in self._committed.items() if unit not in found]
        found |= {record.unit: dict(record.environment) for record in self._records.read_many(rest)}
        different = {canonical_json(found[unit]): found[unit] for unit in self._committed}
        return [one for one in different.values() if one]

    def _entries(self, units: Sequence[Unit]) -> Iterator[IndexedRecord]:
        """Yield what is known of each unit's latest record, in the order of the units."""
        index = self._index(units)
        new = {unit for unit, sequence in self.sequences.items()
               if unit not in index or index[unit].sequence != sequence}  # fmt: skip
        read = self._records.read_many([(unit, self.sequences[unit]) for unit in sorted(new)])
        for unit in self.sequences:
            if unit in new:
                record = next(read)
                yield check_record(record, self._layout, units, self._records.objects.url)
                if self._kept is not None:
                    self._kept[unit] = record
            else:
                entry = index[unit]
                self._indexed[unit] = entry.offset, entry.length
                yield entry

    def _index(self, units: Sequence[Unit]) -> dict[int, IndexedRecord]:
        if self._records.format != FORMAT_VERSION:
            return {}
        try:
            index = read_index(self._records.objects)
            for entry in index.values():
                if entry.committed:
                    _check_entry(entry, self._layout, units)
        except FileNotFoundError:
            return {}
        except StoreError as error:
            _log.warning(
                "%s: %s: reading the records one by one; `verify --repair` writes it again",
                self._records.objects.url,
                error,
            )
            return {}
        return index

    def _read(self, unit: int) -> Record:
        url = self._records.objects.url
        try:
            record = self._records.read(unit, self._committed[unit])
        except FileNotFoundError as error:
            raise StoreError(
                f"{url}: the commit of unit {unit} was removed while the store was open; run "
                "`vega3d-extract verify STORE --repair`, then open it again"
            ) from error
        check_record(record, self._layout, self._layout.plan.units, url)
        return record


def indexed(record: Record) -> IndexedRecord:
    """Return what the index would say of a record, but for its place in the file."""
    return IndexedRecord(
        unit=record.unit,
        sequence=record.sequence,
        committed=record.kind == "commit",
        digest=record.digest,
        offset=0,
        length=0,
        stored_bytes=record.stored_bytes,
        moved=record.moved,
        failures=tuple(scene.failure for scene in record.scenes),
        contents=tuple(scene.content_sha256 for scene in record.scenes),
        views=tuple(tuple(scene.view_ids) for scene in record.scenes),
    )


def check_record(record: Record, layout: Layout, units: Sequence[Unit], url: str) -> IndexedRecord:
    """Compare a record with the plan, and return what the index would say of it.

    Raises:
        StoreError: A member is not what it must be.
    """
    entry = indexed(record)
    try:
        if record.unit >= len(units):
            raise SchemaError(f"unit {record.unit} of {len(units)}")
        if record.kind == "commit":
            _check_scenes(record, units[record.unit])
            _check_entry(entry, layout, units)
            _check_shards(record, layout)
    except SchemaError as error:
        raise StoreError(
            f"{url}: the record of unit {record.unit} does not fit the store's plan: {error}; run "
            "`vega3d-extract verify STORE --repair`, then the extraction again"
        ) from error
    return entry


def _check_scenes(record: Record, unit: Unit) -> None:
    found = [(scene.row, scene.scene_id) for scene in record.scenes]
    if found != list(enumerate(unit.scene_ids, unit.first_row)):
        raise SchemaError(f"its rows and scenes are {found[:3]}")


def _check_entry(entry: IndexedRecord, layout: Layout, units: Sequence[Unit]) -> None:
    if entry.unit >= len(units) or len(entry.views) != len(units[entry.unit].scene_ids):
        raise SchemaError(f"unit {entry.unit} has {len(entry.views)} scenes")
    first = units[entry.unit].first_row
    planned = layout.plan.scenes[first : first + len(entry.views)]
    for scene, views, failure in zip(planned, entry.views, entry.failures, strict=True):
        if failure and views:
            raise SchemaError(f"{scene.scene_id} failed and has {len(views)} views")
        if not failure and not 0 < len(views) <= scene.num_views:
            raise SchemaError(
                f"{scene.scene_id} has {len(views)} views, where 1 to {scene.num_views} are planned"
            )
    for key in entry.moved:
        if not key.partition("/")[2].startswith(f"{entry.unit:06d}."):
            raise SchemaError(f"{key} is not the name of a shard of unit {entry.unit}")


def _check_shards(record: Record, layout: Layout) -> None:
    sizes = layout.unit_shard_sizes(tuple(len(scene.view_ids) for scene in record.scenes))
    if len(record.objects) != len(layout.unit_arrays):
        raise SchemaError(f"it names the shards {sorted(record.objects)[:3]}...")
    for spec in layout.unit_arrays:
        key = spec.file_key(record.unit)
        if key not in record.objects:
            key = _moved_key(record, spec)
        size, possible = record.objects[key].size, sizes[spec.name]
        if size not in possible:
            raise SchemaError(
                f"{key} has {size} bytes, and must have {possible[0]}..{possible[-1]}"
            )


def _moved_key(record: Record, spec: ArraySpec) -> str:
    """Return the name of a shard that is not at its place in the grid."""
    for key, entry in record.objects.items():
        if key.partition("/")[0] == spec.name:
            if key == spec.own_key(record.unit, entry.sha256):
                return key
            raise SchemaError(f"{key} is not the name of its shard of {spec.name}")
    raise SchemaError(f"it names the shards {sorted(record.objects)[:3]}...")
