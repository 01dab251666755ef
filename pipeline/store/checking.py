"""Looking at every object of a store: each against its hash, or against what it must be.

Order: what is known from the plan, records, shards, what was merged. Each step believes only what
the one before it found good. Nothing is written here; see `repair`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from vega3d.pipeline.errors import NoStoreError, StoreError
from vega3d.pipeline.store.committed import check_record
from vega3d.pipeline.store.creating import fixed_objects
from vega3d.pipeline.store.index import INDEX, IndexedRecord, read_index, read_indexed
from vega3d.pipeline.store.layout import Layout
from vega3d.pipeline.store.merge import merged_objects, moved_shards, published
from vega3d.pipeline.store.metadata import ROOT
from vega3d.pipeline.store.objects import TEMPORARY_SUFFIX, Objects
from vega3d.pipeline.store.record import ObjectRecord, Record, content_digest
from vega3d.pipeline.store.records import COMMITS, Records, latest_places
from vega3d.pipeline.store.root import COPY, Root, read_copy, read_root

_READERS = 8
_PIECE_BYTES = 2**24


@dataclass(kw_only=True, slots=True)
class Findings:
    """What was found, by the names of objects; every entry is a reason."""

    fixed: dict[str, str] = field(default_factory=dict)
    """What is known from the plan."""

    records: dict[str, str] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    """Copies of what records and shards say: damaged, or behind them."""

    uncommitted: dict[str, str] = field(default_factory=dict)
    superseded: list[str] = field(default_factory=list)
    """Shards of commits that count no more: not a fault."""

    unvouched: list[str] = field(default_factory=list)
    """Logs, and what is no part of the store: nothing says what they must be. Not a fault."""

    leftovers: int = 0
    objects: int = 0
    stored_bytes: int = 0
    latest: dict[int, tuple[int, Record | None]] = field(default_factory=dict)
    """Sequence and record of each unit that has one; None where that is damaged."""

    lost: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """Texts of damaged or lost records that the index still has."""

    @property
    def commits(self) -> dict[int, Record]:
        """The good commits that count, in the order of the units."""
        found = {unit: record for unit, (_, record) in sorted(self.latest.items()) if record}
        return {unit: record for unit, record in found.items() if record.kind == "commit"}

    @property
    def faults(self) -> dict[str, str]:
        """All of them, by name."""
        return {
            **self.fixed, **self.records, **self.shards, **self.merged, **self.uncommitted,
        }  # fmt: skip


def find_root(objects: Objects) -> Root:
    """Return a store's root, from its second copy where the first is damaged or gone.

    Raises:
        StoreError: There is no store, or both are damaged.
    """
    try:
        return read_root(objects)
    except (OSError, StoreError) as first:
        try:
            return read_copy(objects)
        except (FileNotFoundError, NotADirectoryError):
            if isinstance(first, FileNotFoundError | NotADirectoryError):
                raise NoStoreError(objects.url) from first
            raise first from None
        except (OSError, StoreError) as second:
            raise StoreError(
                f"{objects.url}: {ROOT} and its copy {COPY} are both damaged, and nothing else "
                f"says what the store was made from ({first}; {second}); the shards cannot be "
                "believed without it: extract into another --out"
            ) from second


def look(objects: Objects, root: Root) -> Findings:
    """Look at every object of a store of this format."""
    findings = Findings()
    _look_at_fixed(objects, root, findings)
    look_at_records(Records(objects), root.layout, findings)
    look_at_shards(objects, findings)
    keys = list(objects.keys(""))
    look_for_more(keys, root.layout, findings)
    findings.unvouched = list(_unvouched(keys, root))
    _look_at_merged(objects, root.layout, findings)
    return findings


def differs(objects: Objects, key: str, expected: bytes) -> str:
    """Return how a small object differs from what it must be, "" where it does not."""
    try:
        return "" if objects.read(key) == expected else "is not what it must be"
    except FileNotFoundError:
        return "is gone"
    except (OSError, StoreError) as error:
        return f"cannot be read: {error}"


def _look_at_fixed(objects: Objects, root: Root, findings: Findings) -> None:
    expected = fixed_objects(root)
    findings.objects += len(expected)
    for key, value in expected.items():
        if reason := differs(objects, key, value):
            findings.fixed[key] = reason


def look_at_records(records: Records, layout: Layout, findings: Findings) -> None:
    """Read every record; those that are damaged or lost may still be in the index."""
    listed = records.listed()
    latest = dict(latest_places(listed))
    findings.objects += len(listed)
    index = _index(records.objects, findings) if records.format != 1 else {}

    def read(place: tuple[int, int]) -> Record | str:
        try:
            record = records.read(*place)
            check_record(record, layout, layout.plan.units, records.objects.url)
            if records.format != 1 and record.digest != content_digest(record):
                return "holds a digest of other content"
        except (OSError, StoreError) as error:
            return str(error).partition("; ")[0]
        return record

    with ThreadPoolExecutor(_READERS) as pool:
        found = dict(zip(listed, pool.map(read, listed), strict=True))
    for (unit, sequence), record in found.items():
        good = isinstance(record, Record)
        if latest[unit] == sequence:
            findings.latest[unit] = (sequence, record if isinstance(record, Record) else None)
        if not good:
            findings.records[listed[unit, sequence]] = str(record)
    for unit, entry in index.items():
        known, latest_record = findings.latest.get(unit, (-1, None))
        if entry.sequence > known:
            findings.records[records.key(unit, entry.sequence)] = f"is gone, and {INDEX} has it"
            findings.latest[unit] = (entry.sequence, None)
        lost = entry.sequence >= known and latest_record is None
        if lost and (text := _indexed_text(records, layout, entry)):
            findings.lost[unit, entry.sequence] = text
    for key in records.objects.keys(COMMITS):
        if records.place(key) is None and not key.endswith(TEMPORARY_SUFFIX):
            findings.records[key] = "is no record's name"


def _index(objects: Objects, findings: Findings) -> dict[int, IndexedRecord]:
    try:
        return read_index(objects)
    except FileNotFoundError:
        return {}  # no run has ended yet: told with what was merged
    except (OSError, StoreError) as error:
        findings.merged[INDEX] = f"cannot be read: {error}"
        return {}


def _indexed_text(records: Records, layout: Layout, entry: IndexedRecord) -> bytes:
    """Return the text of a record that the index has, b"" where that is damaged too."""
    try:
        raw = read_indexed(records.objects, entry)
        record = records.parsed(entry.unit, entry.sequence, raw)
        check_record(record, layout, layout.plan.units, records.objects.url)
    except (OSError, StoreError):
        return b""
    return raw


def look_at_shards(objects: Objects, findings: Findings) -> None:
    """Hash every committed shard."""
    entries = {
        key: entry for record in findings.commits.values() for key, entry in record.objects.items()
    }
    with ThreadPoolExecutor(_READERS) as pool:
        reasons = pool.map(lambda key: shard_differs(objects, key, entries[key]), entries)
        findings.shards |= {
            key: reason for key, reason in zip(entries, reasons, strict=True) if reason
        }
    findings.objects += len(entries)
    findings.stored_bytes += sum(entry.size for entry in entries.values())


def shard_differs(objects: Objects, key: str, entry: ObjectRecord) -> str:
    """Return how a shard differs from what was committed; a piece at a time is in memory."""
    try:
        size = objects.size(key)
        if size != entry.size:
            return f"has {size} bytes, and was committed with {entry.size}"
        digest = hashlib.sha256()
        for start in range(0, size, _PIECE_BYTES):
            span = (start, min(_PIECE_BYTES, size - start))
            digest.update(objects.read_parts(key, [span])[0])
    except FileNotFoundError:
        return "is committed but gone"
    except (OSError, StoreError) as error:
        return f"cannot be read: {error}"
    return "" if digest.hexdigest() == entry.sha256 else "does not match its checksum"


def look_for_more(keys: Iterable[str], layout: Layout, findings: Findings) -> None:
    """Sort the shards that no commit names."""
    arrays = {spec.name for spec in layout.unit_arrays}
    places = {spec.file_key(unit.index): unit.index
              for spec in layout.unit_arrays for unit in layout.plan.units}  # fmt: skip
    commits = findings.commits
    named = {key for record in commits.values() for key in record.objects}
    known = {key for unit in commits for key in commits[unit].objects}
    for key in keys:
        if key.endswith(TEMPORARY_SUFFIX):
            findings.leftovers += 1
        elif key in named or key in known or key.split("/")[0] not in arrays:
            continue
        elif key in places:
            if places[key] not in commits:
                findings.uncommitted[key] = (
                    "no commit names it: a run is going on, or was cut short"
                )
        elif not key.endswith(f"/{ROOT}"):
            findings.superseded.append(key)


def _unvouched(keys: Iterable[str], root: Root) -> Iterable[str]:
    layout, fixed = root.layout, fixed_objects(root)
    specs = (*layout.unit_arrays, *layout.merged_arrays, *layout.fixed_arrays)
    arrays = {spec.name for spec in specs} - {"unit"}
    for key in keys:
        is_known = key in fixed or key == INDEX or key.startswith(f"{COMMITS}/")
        if not (is_known or key.split("/")[0] in arrays or key.endswith(TEMPORARY_SUFFIX)):
            yield key


def _look_at_merged(objects: Objects, layout: Layout, findings: Findings) -> None:
    commits = findings.commits
    for place, key in moved_shards(layout, commits):
        unit = int(key.partition("/")[2].partition(".")[0])
        if not published(objects, place, key, commits[unit].objects[key].sha256):
            findings.merged[place] = f"is not the shard that is committed as {key}"
    if any(record is None for _, record in findings.latest.values()):
        return  # what they should say is not known
    try:
        for key, parts in merged_objects(objects, layout, commits):
            if reason := differs(objects, key, b"".join(parts)):
                findings.merged[key] = reason + _behind(reason)
            findings.objects += 1
    except StoreError:
        return  # a committed shard is damaged, and named as such


def _behind(reason: str) -> str:
    if reason == "is gone":
        return ": the end of a run writes it"
    return ": damaged, or a run is going on or was cut short"


def same_json(objects: Objects, key: str, expected: object) -> str:
    """Return how a JSON document differs from a value, "" where it does not."""
    return _compared(lambda: json.loads(objects.read(key)) == expected)


def _compared(same: Callable[[], bool]) -> str:
    try:
        return "" if same() else "is not what it must be"
    except FileNotFoundError:
        return "is gone"
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot be read: {error}"
