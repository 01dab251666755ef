"""Repairing a store: what is a copy is written again, what is lost is taken back.

Order: what is known from the plan, records, shards, what was merged.
"""

from dataclasses import dataclass, field

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.checking import Findings, look, shard_differs
from vega3d.pipeline.store.creating import fixed_objects
from vega3d.pipeline.store.identity import sha256_of
from vega3d.pipeline.store.layout import Layout
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.moments import recomputed_moments
from vega3d.pipeline.store.objects import Objects, Parts
from vega3d.pipeline.store.reading import ShardReader
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.records import Records
from vega3d.pipeline.store.root import Root
from vega3d.pipeline.store.writer import StoreWriter

LEFTOVER_AGE_S = 86_400.0
"""A temporary file, or a superseded shard, of that age belongs to nobody."""


@dataclass(kw_only=True, slots=True)
class Repaired:
    """What a repair did."""

    restored: list[str] = field(default_factory=list)
    """Objects that hold again what they held."""

    taken_back: dict[int, str] = field(default_factory=dict)
    """Units whose rows are gone until the extraction is run again, and why."""


def repair(objects: Objects, root: Root, findings: Findings) -> Repaired:
    """Write again what can be known, and take back the units whose bytes are lost."""
    done = Repaired()
    expected = fixed_objects(root)
    for key in findings.fixed:
        objects.replace(key, [expected[key]])
        done.restored.append(key)
    _repair_records(Records(objects), findings, done)
    now = look(objects, root)  # what records say that were just restored was not looked at yet
    findings.shards |= now.shards
    _repair_shards(objects, root, now, done)
    merge_commits(StoreWriter(url=objects.url, layout=root.layout, numerics=root.ours["numerics"]))
    done.restored += findings.merged
    objects.remove_leftovers(LEFTOVER_AGE_S)
    for key in findings.superseded:
        if objects.age_s(key) > LEFTOVER_AGE_S:
            objects.remove(key)
    return done


def _repair_records(records: Records, findings: Findings, done: Repaired) -> None:
    for key in findings.records:
        place = records.place(key)
        if place is None:
            continue  # not ours, and in nobody's way
        if text := findings.lost.get(place):
            records.objects.replace(key, [text])
            done.restored.append(key)
            continue
        # Nobody knows what it said. A revoke in its place keeps the unit's numbers without a gap.
        unit, sequence = place
        revoke = Record(kind="revoke", unit=unit, sequence=sequence)
        records.objects.replace(key, [revoke.to_json()])
        if findings.latest[unit][0] == sequence:
            done.taken_back[unit] = f"{key} {findings.records[key]}, and there is no copy of it"


def _repair_shards(objects: Objects, root: Root, findings: Findings, done: Repaired) -> None:
    for unit, record in findings.commits.items():
        # Moments last: they follow from the features.
        for key in sorted(record.objects, key=lambda key: key.startswith("moments/")):
            if key not in findings.shards:
                continue
            if parts := _known_elsewhere(objects, root.layout, record, key):
                objects.replace(key, parts)
                done.restored.append(key)
            else:
                done.taken_back[unit] = f"{key} {findings.shards[key]}"
        if unit in done.taken_back:
            Records(objects).revoke(unit, record.sequence + 1)


def _known_elsewhere(objects: Objects, layout: Layout, record: Record, key: str) -> Parts:
    """Return the bytes of a lost shard from a second name, or from what it follows from."""
    spec, entry = layout.find(key.split("/")[0]), record.objects[key]
    for other in (spec.file_key(record.unit), spec.own_key(record.unit, entry.sha256)):
        if other != key and not shard_differs(objects, other, entry):
            return [objects.read(other)]
    if spec.name != "moments":
        return []
    try:
        parts = recomputed_moments(ShardReader(objects), layout, record)
    except StoreError:
        return []
    return parts if sha256_of(parts) == entry.sha256 else []
