"""Checking a store: every object against its checksum, and a sample of scenes computed anew."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.commits import ROWS, Record, put_record, read_records
from vega3d.pipeline.store.identity import config_digest, sha256_of
from vega3d.pipeline.store.merge import merge_commits, merged_objects
from vega3d.pipeline.store.objects import TEMPORARY_SUFFIX, Objects, open_objects
from vega3d.pipeline.store.store import Store
from vega3d.pipeline.store.units import Plan, PlannedScene
from vega3d.pipeline.store.writer import (
    StoreWriter,
    check_written_here,
    fixed_objects,
    reopen,
    revoke,
)

if TYPE_CHECKING:
    pass

LEFTOVER_AGE_S = 86_400.0
"""A temporary file of that age belongs to nobody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What `verify` found; `damaged` gives a reason for each object."""

    store: str
    objects: int
    bytes: int
    damaged: dict[str, str]
    unmerged: Sequence[str]
    """Small arrays behind the commits: a run is going on or was cut short; the next run mends."""

    uncommitted_shards: Sequence[str]
    """Written, but no commit speaks of them: a run is going on or was cut short."""

    leftovers: int
    """Temporary files of writers that live or died."""

    environments: int
    """Different machines or versions that took part: equal bytes are promised only for one."""

    repaired_units: Sequence[int] = ()
    """Units whose commit was taken back; the next run computes them anew."""


def verify(url: str, *, repair: bool = False) -> Verification:
    """Read every object again and compare it with its checksum, or with what it must be.

    Args:
        url: Folder or URL of the store.
        repair: Take back the commits of damaged units, and revoke shards that no commit speaks
            of, so that the next run computes them anew; write damaged small objects again.

    Raises:
        StoreError: There is no store, or repair is asked of one of an older format.
    """
    store = Store.open(url)
    if repair:
        check_written_here(url, store.attributes)
    objects = open_objects(url)
    writer, plan = _reopened(store)
    commits = store.records.read_all()
    damaged, size = _damaged_shards(objects, commits)
    expected, small = _small_objects(store, writer, plan), {}
    for key, value in expected.items():
        if reason := _differs(objects, key, value):
            small[key] = reason
    unmerged = _unmerged(objects, writer, commits)
    keys = list(objects.keys(""))
    records = read_records(objects)  # read after the listing: a commit made meanwhile counts
    uncommitted = _uncommitted_shards(keys, writer, records)
    repaired: list[int] = []
    if repair:
        repaired = sorted({int(key.split("/")[2]) for key in damaged})
        for unit in repaired:
            revoke(objects, commits[unit])
        for unit in {int(key.split("/")[2]) for key in uncommitted} - records.keys():
            put_record(objects, Record(kind="revoke", unit=unit, sequence=0))
        for key in small:
            objects.replace(key, [expected[key]])
        objects.remove_leftovers(LEFTOVER_AGE_S)
        merge_commits(writer)
    return Verification(
        store=url,
        objects=sum(len(record.objects) for record in commits.values()) + len(expected),
        bytes=size,
        damaged={**damaged, **small},
        unmerged=unmerged,
        uncommitted_shards=uncommitted,
        leftovers=sum(key.endswith(TEMPORARY_SUFFIX) for key in keys),
        environments=len(_environments(commits)),
        repaired_units=repaired,
    )


def status(url: str) -> dict[str, Any]:
    """Return how far a store is, as plain JSON."""
    store = Store.open(url)
    commits = store.records.read_all()
    return {
        "store": url,
        "scenes": len(store.planned),
        "committed": len(store.scene_ids),
        "failures": store.failures,
        "pending": len(store.pending),
        "units": len(store.units),
        "units_committed": len(commits),
        "views": sum(store.num_views(scene_id) for scene_id in store.scene_ids),
        "stored_bytes": sum(
            entry.size for record in commits.values() for entry in record.objects.values()
        ),
        "taps": store.taps,
        "config_digest": store.config_digest,
        "digest": store.digest(),
        "complete": not store.pending,
        "environments": _environments(commits),
        "numerics": store.attributes["numerics"],
    }


def _reopened(store: Store) -> tuple[StoreWriter, Plan]:
    """Return the writer and the plan that a store was made from."""
    limit = int(store.identity["config"].get("num_views", 0))
    plan = Plan(
        scenes=tuple(
            PlannedScene(scene_id, listed, min(listed, limit) if limit else listed)
            for scene_id, listed in store.planned.items()
        ),
        scenes_per_shard=int(store.attributes["scenes_per_shard"]),
    )
    return reopen(store.url, store.attributes, plan), plan


def _damaged_shards(objects: Objects, records: Mapping[int, Record]) -> tuple[dict[str, str], int]:
    """Return a reason for each committed object that is not what it was, and the bytes read."""
    entries = {key: entry for record in records.values() for key, entry in record.objects.items()}

    def look(key: str) -> tuple[str, int]:
        try:
            raw = objects.read(key)
        except (OSError, StoreError) as error:
            return f"cannot be read: {error}", 0
        same = sha256_of([raw]) == entries[key].sha256
        return ("" if same else "does not match its checksum"), len(raw)

    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(entries, pool.map(look, entries), strict=True))
    damaged = {key: reason for key, (reason, _) in found.items() if reason}
    return damaged, sum(size for _, size in found.values())


def _small_objects(store: Store, writer: StoreWriter, plan: Plan) -> dict[str, bytes]:
    """Return metadata, row table and the chunks known from the plan, as they must be."""
    if config_digest(store.identity) != store.config_digest:
        raise StoreError(f"{store.url}: zarr.json does not match its own digest; it is damaged")
    documents, chunks = fixed_objects(writer, plan, store.attributes)
    rows = open_objects(store.url).read(ROWS)
    if sha256_of([rows]) != store.attributes["rows_sha256"]:
        raise StoreError(f"{store.url}: {ROWS} does not match its digest; it is damaged")
    return {**documents, **chunks}


def _differs(objects: Objects, key: str, expected: bytes) -> str:
    """Compare a small object with what it must be; JSON by value, as zarr's versions indent."""
    try:
        there = objects.read(key)
        same = there == expected or (
            key.endswith(".json") and json.loads(there) == json.loads(expected)
        )
    except FileNotFoundError:
        return "is gone"
    except ValueError:
        same = False
    return "" if same else "is not what it must be"


def _unmerged(objects: Objects, writer: StoreWriter, records: Mapping[int, Record]) -> list[str]:
    """Return the small arrays that do not say what the commits say."""
    try:
        expected = merged_objects(writer, records)
    except StoreError:
        return []  # a committed shard is damaged, and reported as such
    return [key for key, value in expected.items() if _differs(objects, key, value)]


def _uncommitted_shards(
    keys: Sequence[str], writer: StoreWriter, records: Mapping[int, Record]
) -> list[str]:
    arrays = {spec.name for spec in writer.arrays}
    committed = {
        key for record in records.values() if record.kind == "commit" for key in record.objects
    }
    return [
        key
        for key in keys
        if key.split("/")[0] in arrays
        and "/c/" in key
        and key not in committed
        and not key.endswith(TEMPORARY_SUFFIX)
    ]


def _environments(records: Mapping[int, Record]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for record in records.values():
        if record.environment and dict(record.environment) not in found:
            found.append(dict(record.environment))
    return found
