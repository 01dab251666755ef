"""The index of all records, merged when a run ends, so that a store opens with a few reads.

The file holds the latest record of every unit, a line each, then one line that says what is needed
of all of them at once, then that line's length in 20 digits. It is a copy: whatever it says can be
read from the records, and a record that was damaged can be restored from it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vega3d.pipeline.store import schema
from vega3d.pipeline.store.identity import FORMAT_VERSION, canonical_json
from vega3d.pipeline.store.names import check_text
from vega3d.pipeline.store.objects import Objects
from vega3d.pipeline.store.record import Record, sealed, unsealed

INDEX = "unit/index.jsonl"

_FOOTER_BYTES = 21
_FIRST_READ = 2**20
_PIECE_BYTES = 2**24
_ENVIRONMENT, _AFTER = b'"environment":', b',"format":'


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedRecord:
    """What the index says of a unit's latest record."""

    unit: int
    sequence: int
    committed: bool
    digest: str
    offset: int
    length: int
    """Of its text in the file."""

    stored_bytes: int
    moved: tuple[str, ...]
    """Names of shards that are not at their place in the grid."""

    failures: tuple[str, ...]
    """Of each scene, "" where there are features."""

    contents: tuple[str, ...]
    """Hash of what each scene's features came from."""

    views: tuple[tuple[str, ...], ...]
    """Ids of each scene's views."""


_Texts = Annotated[tuple[str, ...], Meta(max_length=schema.MAX_VIEWS)]


class _EntryText(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What stands of a record in the last line: a list of these, checked while it is parsed."""

    unit: schema.Place
    sequence: schema.Count
    committed: Literal[0, 1]
    digest: schema.Sha256
    offset: schema.Count
    length: schema.Count
    stored_bytes: schema.Count
    moved: _Texts
    failures: _Texts
    contents: _Texts
    views: tuple[schema.Count, ...]
    """Places in the header's `views`."""


class _HeaderText(msgspec.Struct, forbid_unknown_fields=True):
    """The last line."""

    format: int
    records: Annotated[list[_EntryText], Meta(max_length=schema.MAX_SCENES)]
    views: Annotated[list[_Texts], Meta(max_length=schema.MAX_SCENES)]


_DECODER = msgspec.json.Decoder(_HeaderText)


def index_parts(records: Iterable[Record]) -> list[bytes]:
    """Return the pieces of the file; the records in the order of their units."""
    lines: list[bytes] = []
    entries: list[list[object]] = []
    tables: dict[tuple[str, ...], int] = {}  # scenes often name their views alike
    offset = 0
    for record in records:
        text = record.text if record.text and b"\n" not in record.text else record.to_json()
        entries.append([*_entry(record, offset, len(text), tables)])
        lines += text, b"\n"
        offset += len(text) + 1
    views = [list(names) for names in tables]
    header = {"format": FORMAT_VERSION, "records": entries, "views": views}
    line = sealed(canonical_json(header)) + b"\n"
    return [*lines, line, b"%020d\n" % len(line)]


def read_index(objects: Objects) -> dict[int, IndexedRecord]:
    """Return what the index says, by unit.

    Raises:
        FileNotFoundError: No run has ended yet.
        SchemaError: It is damaged.
    """
    tail, size = objects.read_tail(INDEX, _FIRST_READ)
    footer = tail[-_FOOTER_BYTES:]
    if len(footer) != _FOOTER_BYTES or not footer[:-1].isdigit() or footer[-1:] != b"\n":
        raise schema.SchemaError(f"{INDEX} does not end as it must")
    length = int(footer)
    if not 0 < length <= min(size - _FOOTER_BYTES, schema.MAX_DOCUMENT_BYTES):
        raise schema.SchemaError(f"{INDEX} says that it ends with {length} of {size} bytes")
    if length + _FOOTER_BYTES > len(tail):
        tail, _ = objects.read_tail(INDEX, length + _FOOTER_BYTES)
    return _parse(tail[-_FOOTER_BYTES - length : -_FOOTER_BYTES].rstrip(b"\n"), size)


def read_indexed(objects: Objects, entry: IndexedRecord) -> bytes:
    """Return the text of a record from the index."""
    return objects.read_parts(INDEX, [(entry.offset, entry.length)])[0]


def read_environments(
    objects: Objects, places: Mapping[int, tuple[int, int]]
) -> dict[int, dict[str, Any]]:
    """Return the environment that each record in the index names; damaged ones are left out.

    Args:
        objects: Of the store.
        places: By unit: where its text begins, and its length.
    """
    found: dict[int, dict[str, Any]] = {}
    known: dict[bytes, dict[str, Any]] = {}  # most units name the same
    for piece in _pieces(places):
        start = places[piece[0]][0]
        end = sum(places[piece[-1]])
        raw = objects.read_parts(INDEX, [(start, end - start)])[0]
        for unit in piece:
            offset, length = places[unit]
            text = raw[offset - start : offset - start + length]
            # Members are sorted, so this is the first of that name but for its digest.
            named = text[text.find(_ENVIRONMENT) + len(_ENVIRONMENT) : text.find(_AFTER)]
            try:
                unsealed(text, INDEX)
                if named not in known:
                    known[named] = schema.plain(schema.load(named, INDEX), INDEX)
            except schema.SchemaError:
                continue  # its record is asked
            found[unit] = known[named]
    return found


def _pieces(places: Mapping[int, tuple[int, int]]) -> Iterator[list[int]]:
    """Yield units whose texts lie one after the other, of some megabytes together."""
    piece: list[int] = []
    for unit, (offset, length) in sorted(places.items(), key=lambda item: item[1]):
        far = piece and offset + length - places[piece[0]][0] > _PIECE_BYTES
        if far:
            yield piece
            piece = []
        piece.append(unit)
    if piece:
        yield piece


def _entry(
    record: Record, offset: int, length: int, tables: dict[tuple[str, ...], int]
) -> Iterable[object]:
    views = [tables.setdefault(tuple(s.view_ids), len(tables)) for s in record.scenes]
    yield from (record.unit, record.sequence, int(record.kind == "commit"), record.digest)
    yield from (offset, length, record.stored_bytes, list(record.moved))
    yield [scene.failure for scene in record.scenes]
    yield [scene.content_sha256 for scene in record.scenes]
    yield views


def _parse(line: bytes, size: int) -> dict[int, IndexedRecord]:
    header = schema.parse(_DECODER, unsealed(line, INDEX), INDEX)
    if header.format != FORMAT_VERSION:
        raise schema.SchemaError(f"{INDEX} is of another format than its store")
    texts = (text for e in header.records for text in (*e.moved, *e.failures, *e.contents))
    everything = "".join(chain(texts, *header.views))  # at once: a large store has many
    check_text(INDEX, everything, schema.MAX_DOCUMENT_BYTES)
    return {entry.unit: _record(entry, header.views, size) for entry in header.records}


def _record(entry: _EntryText, tables: Sequence[tuple[str, ...]], size: int) -> IndexedRecord:
    if not len(entry.failures) == len(entry.contents) == len(entry.views):
        raise schema.SchemaError(f"{INDEX}: unit {entry.unit} has lists of several lengths")
    if max(entry.views, default=0) >= len(tables):
        raise schema.SchemaError(f"{INDEX}: unit {entry.unit} names views that are not there")
    if entry.offset + entry.length > size:
        raise schema.SchemaError(f"{INDEX}: unit {entry.unit} lies behind the end")
    return IndexedRecord(
        unit=entry.unit,
        sequence=entry.sequence,
        committed=entry.committed == 1,
        digest=entry.digest,
        offset=entry.offset,
        length=entry.length,
        stored_bytes=entry.stored_bytes,
        moved=entry.moved,
        failures=entry.failures,
        contents=entry.contents,
        views=tuple([tables[place] for place in entry.views]),
    )
