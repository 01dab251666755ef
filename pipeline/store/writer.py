"""Writing a unit: its shards first, then the commit that makes them count.

Any number of writers may work on one store, and any of them may sleep for minutes between two
steps. Nothing that a commit names is ever written over with other bytes: a unit's first shards are
created at their places in Zarr's grid, where the first writer wins; every other shard has a name
that holds its hash; what a repair took back is written under its old name where it is the same to
the last bit. Commits are created, never replaced. `merge` copies shards of the second
kind to their places in the grid, for readers that know nothing of commits (FORMAT.md).
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.carrying import carried_chunks
from vega3d.pipeline.store.committed import Committed, check_record
from vega3d.pipeline.store.identity import sha256_of
from vega3d.pipeline.store.layout import ArraySpec, Layout
from vega3d.pipeline.store.notes import SceneNote, read_notes, write_notes
from vega3d.pipeline.store.objects import Objects, open_objects
from vega3d.pipeline.store.record import ObjectRecord, Record, SceneRecord
from vega3d.pipeline.store.records import Records
from vega3d.pipeline.store.scene_arrays import (
    SceneArrays,
    SceneFailure,
    as_stored,
    scene_record,
    unit_chunks,
)
from vega3d.pipeline.store.shard import shard_parts, shards_agree
from vega3d.pipeline.store.units import Plan, Unit

ROUNDS = 16
"""Times a writer starts over because another one changed the same unit meanwhile."""

_CONVERTING = 4
"""Scenes of a unit that are checked and rounded at once."""

Scenes = Sequence[SceneArrays | SceneFailure]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreWriter:
    """Where units are written; picklable."""

    url: str
    layout: Layout
    numerics: Mapping[str, Any]
    """What changes the last bits of what is computed: kept, and not looked at here."""

    def write_unit(self, unit: Unit, scenes: Scenes, environment: Mapping[str, Any]) -> Record:
        """Write a unit's shards, then its commit record; returns the commit that counts."""
        return self.put_unit(unit, scenes, environment)[0]

    def put_unit(
        self, unit: Unit, scenes: Scenes, environment: Mapping[str, Any]
    ) -> tuple[Record, bool]:
        """Write a unit's shards, then its commit record.

        Args:
            unit: Where it `supersedes` a commit, the scenes it has `kept` are carried over.
            scenes: The others, in order.
            environment: What else changes the last bits.

        Returns:
            The commit that counts, and False where another job wrote it meanwhile: what was
            computed here was not needed.

        Raises:
            StoreError: Nothing can be written, what is to be carried over is damaged, or other
                writers never let go of the unit.
        """
        objects = open_objects(self.url)
        records = Records(objects)
        with ThreadPoolExecutor(_CONVERTING) as pool:
            as_ours = partial(as_stored, arrays=self.layout.unit_arrays)
            stored: Scenes = list(pool.map(as_ours, scenes))
        for _ in range(ROUNDS):
            last = records.latest(unit.index, unit.last_sequence)
            if last is not None and _counts(last, unit):
                return last, False
            if unit.supersedes and (last is None or last.kind != "commit"):
                raise StoreError(
                    f"{self.url}: the commit of unit {unit.index} was taken back meanwhile; run "
                    "the same command again"
                )
            if unit.supersedes and last is not None:
                unit, stored = _sparing(unit, stored, last)
            shards = self._shards(objects, unit, stored, last)
            told = _told(unit, stored, last)
            if last is not None and last.kind == "commit" and _says(last, told, shards):
                return last, True  # the same scenes failed again, for the same reasons
            lost = self._taken_back(records, last)
            record = self._put_shards(objects, unit, shards, told, last, lost, environment)
            if records.put(record):
                return record, True
        raise StoreError(
            f"{self.url}: other jobs keep writing unit {unit.index}; let one of them finish, "
            "then run the same command again"
        )

    def write_notes(self, unit: Unit, notes: Mapping[str, SceneNote]) -> None:
        """Write notes on scenes of a unit; those of scenes that it has `kept` stay."""
        if not notes:
            return
        objects = open_objects(self.url)
        before = read_notes(objects, unit.index) if unit.kept else {}
        stay = {name: note for name, note in before.items() if name in unit.kept}
        write_notes(objects, unit.index, {**stay, **notes})

    def committed(self, unit: Unit) -> Record | None:
        """Return the commit that was written since the run began, None where there is none."""
        last = Records(open_objects(self.url)).latest(unit.index, unit.last_sequence)
        return last if last is not None and _counts(last, unit) else None

    def _taken_back(self, records: Records, last: Record | None) -> Record | None:
        """Return the commit that a repair took back: what is computed anew may be the same."""
        if last is None or last.kind != "revoke" or last.sequence == 0:
            return None
        try:
            found = records.read(last.unit, last.sequence - 1)
            check_record(found, self.layout, self.layout.plan.units, self.url)
        except (FileNotFoundError, StoreError):
            return None
        return found

    def write_failed_unit(self, unit: Unit, reason: str) -> Record:
        """Record the scenes of a unit that no worker could finish as failed with this reason."""
        return self.write_unit(unit, [SceneFailure(name, reason) for name in unit.todo], {})

    def _shards(
        self, objects: Objects, unit: Unit, scenes: Scenes, last: Record | None
    ) -> list["_Shard"]:
        """Return what is to be written, with what is carried over."""
        rows = {name: i for i, name in enumerate(unit.scene_ids)}
        new = {rows[scene.scene_id]: scene for scene in scenes}

        def laid_out(spec: ArraySpec) -> Sequence[bytes | memoryview]:
            chunks = unit_chunks(spec, self.layout.taps, new)
            if unit.supersedes and last is not None:
                kept = [rows[scene_id] for scene_id in unit.kept]
                chunks |= carried_chunks(objects, spec, last, kept)
            return list(shard_parts(chunks, spec.grid))

        return [_Shard(spec, partial(laid_out, spec)) for spec in self.layout.unit_arrays]

    def _put_shards(
        self,
        objects: Objects,
        unit: Unit,
        shards: Sequence["_Shard"],
        scenes: Sequence[SceneRecord],
        last: Record | None,
        lost: Record | None,
        environment: Mapping[str, Any],
    ) -> Record:
        """Write the shards of a unit and return the record that would commit them."""
        known = {} if lost is None else lost.objects

        def put(shard: _Shard) -> tuple[str, ObjectRecord]:
            for key, entry in known.items():
                if key.split("/")[0] == shard.spec.name and entry == shard.entry:
                    return _restored(objects, key, shard)
            return _put_shard(objects, shard, unit.index, first=last is None)

        # At once, because what takes long is waiting for the disk or the bucket.
        with ThreadPoolExecutor(len(shards)) as pool:
            written = dict(pool.map(put, shards))
        if unit.supersedes and last is not None and last.environment != environment:
            environment = {}  # part of it is the other machine's
        ours = list(written.values()) == [shard.entry for shard in shards]
        return Record(
            kind="commit",
            unit=unit.index,
            sequence=0 if last is None else last.sequence + 1,
            objects=written,
            scenes=scenes,
            environment=environment if ours else {},  # of a shard taken over: unknown
        )


class _Shard:
    """A shard in memory, laid out and hashed where it is first asked for; one thread's."""

    def __init__(
        self, spec: ArraySpec, lay_out: Callable[[], Sequence[bytes | memoryview]]
    ) -> None:
        """Do nothing yet."""
        self.spec = spec
        self._lay_out = lay_out

    @cached_property
    def parts(self) -> Sequence[bytes | memoryview]:
        """Its pieces, in order."""
        return self._lay_out()

    @cached_property
    def entry(self) -> ObjectRecord:
        """Its checksum and size."""
        return _entry(self.parts)


def uncommitted(writer: StoreWriter, plan: Plan) -> list[Unit]:
    """Return the units still to do, in order."""
    committed = Committed(Records(open_objects(writer.url)), writer.layout)
    return [
        replace(unit, last_sequence=committed.sequences.get(unit.index, -1))
        for unit in plan.units
        if unit.index not in committed
    ]


def to_supersede(
    writer: StoreWriter, plan: Plan, *, failed: bool = True, scenes: Collection[str] = ()
) -> list[Unit]:
    """Return the committed units to be computed again; the other scenes of them are to be kept.

    Args:
        writer: Of the store.
        plan: Of the same.
        failed: Whether those that hold failed scenes.
        scenes: And those that hold one of these; failed scenes beside them are tried again too.
    """
    committed = Committed(Records(open_objects(writer.url)), writer.layout)
    again, found = frozenset(scenes), []
    for unit in plan.units:
        good = frozenset(name for name in unit.scene_ids if name in committed.scenes) - again
        lacking = [name for name in unit.scene_ids if name in committed.failures and failed]
        if unit.index in committed and (lacking or again.intersection(unit.scene_ids)):
            last = committed.sequences[unit.index]
            found.append(replace(unit, last_sequence=last, kept=good, supersedes=True))
    return found


def _counts(last: Record, unit: Unit) -> bool:
    """Say whether a unit's latest record makes writing it needless."""
    new = not unit.supersedes or last.sequence != unit.last_sequence
    return last.kind == "commit" and new


def _sparing(unit: Unit, scenes: Scenes, last: Record) -> tuple[Unit, Scenes]:
    """Return the unit so that good features are not replaced by a failure: they are kept."""
    good = {scene.scene_id for scene in last.scenes if not scene.failure}
    spared = {one.scene_id for one in scenes if isinstance(one, SceneFailure)} & good
    if not spared:
        return unit, scenes
    _log.warning("%s: cannot be computed anew now; kept as they are", ", ".join(sorted(spared)))
    rest = [scene for scene in scenes if scene.scene_id not in spared]
    return replace(unit, kept=unit.kept | spared), rest


def _told(unit: Unit, scenes: Scenes, last: Record | None) -> list[SceneRecord]:
    """Return what a commit says of each scene: the new ones, and those carried over."""
    new = {scene.scene_id: scene for scene in scenes}
    return [
        scene_record(new[name], row)
        if name in new or last is None
        else last.scenes[row - unit.first_row]
        for row, name in enumerate(unit.scene_ids, unit.first_row)
    ]


def _says(record: Record, scenes: Sequence[SceneRecord], shards: Sequence[_Shard]) -> bool:
    """Say whether a commit holds these scenes and these bytes."""
    entries = {key.split("/")[0]: entry for key, entry in record.objects.items()}
    same = entries == {shard.spec.name: shard.entry for shard in shards}
    return same and list(record.scenes) == list(scenes)


def _put_shard(
    objects: Objects, shard: _Shard, unit: int, *, first: bool
) -> tuple[str, ObjectRecord]:
    """Write a shard; returns its name and its checksum.

    A unit's first shard goes to its place in the grid. One that is there already (an orphan's, or
    a second job's) is taken where it agrees with ours.
    """
    spec, parts = shard.spec, shard.parts
    if first:
        place = spec.file_key(unit)
        with ThreadPoolExecutor(1) as beside:  # both let other threads run
            hashed = beside.submit(lambda: shard.entry)
            created = objects.create(place, parts)
            entry = hashed.result()
        if created:
            return place, entry
        there = objects.read(place)
        found = _entry([there])
        if found == entry or shards_agree(there, parts, spec.grid, spec.dtype):
            return place, found
        _log.info("%s: a shard that is nobody's does not fit; writing another", place)
    entry = shard.entry
    key = spec.own_key(unit, entry.sha256)
    if not objects.create(key, parts) and _entry([objects.read(key)]) != entry:
        objects.replace(key, parts)  # damaged: whoever writes this name writes these bytes
    return key, entry


def _restored(objects: Objects, key: str, shard: _Shard) -> tuple[str, ObjectRecord]:
    """Write a shard that a commit named, and that was lost, under its name again."""
    try:
        is_there = _entry([objects.read(key)]) == shard.entry
    except (FileNotFoundError, StoreError):
        is_there = False
    if not is_there:
        objects.replace(key, shard.parts)
    return key, shard.entry


def _entry(parts: Sequence[bytes | memoryview]) -> ObjectRecord:
    size = sum(memoryview(part).nbytes for part in parts)
    return ObjectRecord(sha256=sha256_of(parts), size=size)
