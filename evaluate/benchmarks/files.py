"""Files of annotations and predictions: JSON or JSON lines in, checked records out.

An error names the file, the line (or the record's number in a JSON list) and the field.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vega3d.pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object of a file, and where it stands."""

    where: str
    fields: Mapping[str, Any]

    def has(self, *names: str) -> bool:
        """Say whether one of these fields is there and not null."""
        return any(self.fields.get(name) is not None for name in names)

    def get(self, *names: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return the first of these fields that is there; raises UsageError where none is."""
        for name in names:
            if self.fields.get(name) is not None:
                return self.fields[name]
        raise UsageError(
            f"{self.where}: needs the field {' or '.join(names)}, has {sorted(self.fields)}"
        )

    def text(self, *names: str) -> str:
        """Return a field as text; numbers count as what they print."""
        value = self.get(*names)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UsageError(f"{self.where}: {names[0]} must be text, got {_shown(value)}")
        return self._whole(str(value), names[0])

    def texts(self, *names: str) -> tuple[str, ...]:
        """Return a field that is a text or a list of texts, at least one."""
        value = self.get(*names)
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not items or not all(isinstance(i, str) for i in items):
            raise UsageError(f"{self.where}: {names[0]} must be texts, got {_shown(value)}")
        return tuple(self._whole(text, names[0]) for text in items)

    def _whole(self, text: str, name: str) -> str:
        """Return a text that can be written; JSON lets one end in the middle of an emoji."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{self.where}: {name} holds half a character, \\u{ord(text[error.start]):04x} "
                "without its other half: a text that was cut?"
            ) from error
        return text


def read_records(path: str | Path) -> tuple[Record, ...]:
    """Return the objects of a file: a JSON list, an object of lists, or one object a line.

    Raises:
        UsageError: There is no such file, or it is no such JSON; the message has the line.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    try:
        document = json.loads(text)
    except json.JSONDecodeError as whole:
        return tuple(_lines(path, text, whole))
    return tuple(
        Record(f"{path}, record {number}", _object(item, f"{path}, record {number}"))
        for number, item in enumerate(_items(path, document), 1)
    )


def check_has_boxes(path: str | Path, records: Sequence[Record], released: str) -> None:
    """Refuse a benchmark's own file, which names objects and leaves their boxes to ScanNet.

    Args:
        path: Of the annotations.
        records: What they hold.
        released: Name of the file that has the boxes.

    Raises:
        UsageError: It is one; the message names the other file.
    """
    if records and records[0].has("ann_id") and not records[0].has("id", "sample_id"):
        raise UsageError(
            f"{path} names objects without their boxes; --annotations takes {released}, whose "
            "records have them"
        )


def by_id(records: Sequence[Record], *names: str) -> dict[str, Record]:
    """Return records by the text of their id field; raises UsageError where one occurs twice."""
    found: dict[str, Record] = {}
    for record in records:
        key = record.text(*names)
        if key in found:
            raise UsageError(f"{record.where}: {key!r} is there already, in {found[key].where}")
        found[key] = record
    return found


def matched(
    truths: Mapping[str, Any], answers: Mapping[str, Record], path: str | Path
) -> tuple[str, ...]:
    """Return the ids without a prediction; raises UsageError where predictions have no query."""
    if surplus := [key for key in answers if key not in truths]:
        raise UsageError(
            f"{answers[surplus[0]].where}: {len(surplus)} predictions are for queries that the "
            f"annotations do not have, such as {surplus[:3]}; is {path} of another split?"
        )
    return tuple(key for key in truths if key not in answers)


def _lines(path: str | Path, text: str, whole: json.JSONDecodeError) -> Iterator[Record]:
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UsageError(f"{path}: is empty")
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            told = whole if len(lines) == 1 else error
            raise UsageError(f"{where}: no JSON: {told.msg} at column {told.colno}") from error
        yield Record(where, _object(item, where))


def _items(path: str | Path, document: Any) -> Sequence[Any]:  # noqa: ANN401 - any JSON value
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        # SQA3D's files: {"info": ..., "questions": [{...}, ...]}
        lists = [
            value
            for value in document.values()
            if isinstance(value, list)
            and (isinstance(value[0], dict) if value else "info" in document)
        ]
        if len(lists) == 1:
            return lists[0]
        return [document]
    raise UsageError(f"{path}: must hold a list of records, got {_shown(document)}")


def _object(item: Any, where: str) -> Mapping[str, Any]:  # noqa: ANN401 - any JSON value
    if not isinstance(item, dict):
        raise UsageError(f"{where}: must be an object, got {_shown(item)}")
    return item


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON value
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
