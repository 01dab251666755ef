"""The commit records of a store: one file each, created once, numbered by unit and sequence.

The record of the highest sequence counts. They lie below the array `unit`, where no Zarr reader
looks, and are read many at a time.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store import format_1
from vega3d.pipeline.store.ahead import in_order
from vega3d.pipeline.store.identity import FORMAT_VERSION
from vega3d.pipeline.store.objects import Objects
from vega3d.pipeline.store.record import MAX_RECORD_BYTES, Record, parse_record
from vega3d.pipeline.store.schema import SchemaError

COMMITS = "unit/commits"
ROWS = "unit/rows.json"
RUNS = "unit/runs"
SUMMARY = "unit/summary.json"
LIVE = ".live.json"
"""How the names of files below RUNS end that say how a run goes."""

LIVE_FOR_S = 3600.0
"""A run that said nothing of itself for so long is taken for one that was killed."""


_NAMES = {
    1: re.compile(rf"{COMMITS}/(\d{{6,8}})/(\d{{1,9}})\.json"),
    2: re.compile(rf"{COMMITS}/(\d{{6,8}})\.(\d{{1,9}})\.json"),
}


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one store."""

    objects: Objects
    format: int = FORMAT_VERSION

    def key(self, unit: int, sequence: int) -> str:
        """Return a record's name in the store."""
        between = "/" if self.format == 1 else "."
        return f"{COMMITS}/{unit:06d}{between}{sequence}.json"

    def place(self, key: str) -> tuple[int, int] | None:
        """Return the unit and sequence that a name says, None where it is no record's."""
        found = _NAMES[self.format].fullmatch(key)
        return (int(found[1]), int(found[2])) if found else None

    def listed(self) -> dict[tuple[int, int], str]:
        """Return the names of all records, by unit and sequence, in that order."""
        found = {place: key for key in self.objects.keys(COMMITS) if (place := self.place(key))}
        return dict(sorted(found.items()))

    def latest(self, unit: int, since: int = -1) -> Record | None:
        """Return the record of a unit that counts, or None where there is none.

        Args:
            unit: Its index.
            since: Sequence of its latest record when somebody listed them; -1 for none.
        """
        found, sequence = None, max(since, 0)
        while True:  # a unit has few records: asking for the next is cheaper than listing all
            try:
                found = self.read(unit, sequence)
            except FileNotFoundError:
                return found
            sequence += 1

    def read(self, unit: int, sequence: int) -> Record:
        """Return one record; raises FileNotFoundError, and StoreError where it is damaged."""
        key = self.key(unit, sequence)
        return self.parsed(unit, sequence, self.objects.read(key, MAX_RECORD_BYTES))

    def parsed(self, unit: int, sequence: int, raw: bytes) -> Record:
        """Return the record of these bytes; raises StoreError where they are not that record."""
        name = f"{self.objects.url}/{self.key(unit, sequence)}"
        parse: Callable[[bytes, str], Record] = (
            format_1.parse_record if self.format == 1 else parse_record
        )
        try:
            record = parse(raw, name)
            if (record.unit, record.sequence) != (unit, sequence):
                raise SchemaError(f"{name} is the record of unit {record.unit}, {record.sequence}")
        except StoreError as error:
            raise StoreError(
                f"{error}; it is damaged and not believed: run `vega3d-extract verify STORE "
                "--repair`, then the extraction again"
            ) from error
        return record

    def read_many(self, places: Sequence[tuple[int, int]]) -> Iterator[Record]:
        """Yield the records of these units and sequences, in their order."""
        yield from in_order(lambda place: self.read(*place), places)

    def put(self, record: Record) -> bool:
        """Write a record and read it back; False where another worker wrote that number first.

        Raises:
            StoreError: It reads otherwise: the place lets two writers overwrite one another.
        """
        key, text = self.key(record.unit, record.sequence), record.to_json()
        if not self.objects.create(key, [text]):
            return False
        if self.objects.read(key) != text:
            raise StoreError(
                f"{self.objects.url}/{key}: reads otherwise than it was written; does another job "
                "write here, and does the place honour create-only writes? Run `vega3d-extract "
                "verify STORE`"
            )
        return True

    def revoke(self, unit: int, sequence: int) -> None:
        """Take a unit's rows back: whatever was committed under a lower number counts no more."""
        self.put(Record(kind="revoke", unit=unit, sequence=sequence))


def latest_places(places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the highest sequence of each unit, in the order of the units."""
    return sorted(dict(sorted(places)).items())
