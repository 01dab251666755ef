"""Commit records: the only thing that makes a unit's rows readable.

A record is create-only and says nothing of when, where or by whom. A unit's records are numbered;
the highest counts. A `commit` names the checksums of the unit's objects and its scenes; a `revoke`
takes the rows back, before `--retry-failed` or `verify --repair` replace the shards.
They lie below the array `unit`, where no Zarr reader looks.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.identity import FORMAT_VERSION, READABLE_FORMATS, canonical_json
from vega3d.pipeline.store.objects import Objects

COMMITS = "unit/commits"
ROWS = "unit/rows.json"
RUNS = "unit/runs"

_READERS = 16
_READ_AHEAD = 256
"""Records parsed before the first of them is used up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneRecord:
    """What a commit says of one scene; `failure` is its reason, or "" where there are features."""

    scene_id: str
    row: int
    failure: str = ""
    content_sha256: str = ""
    view_ids: Sequence[str] = ()
    image_size: Sequence[Sequence[int]] = ()
    """Height and width of each view's colour image, px."""

    world_from_camera: Sequence[Sequence[Sequence[float]] | None] = ()
    intrinsics: Sequence[Sequence[Sequence[float]] | None] = ()
    dropped_views: int = 0
    """Views left out because their pose was not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectRecord:
    """Checksum and size of one stored object."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The state of one unit."""

    kind: Literal["commit", "revoke"]
    unit: int
    sequence: int
    objects: Mapping[str, ObjectRecord] = field(default_factory=dict)
    scenes: Sequence[SceneRecord] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    """What else changes the last bits: versions, instruction set, GPU."""

    @property
    def key(self) -> str:
        """The record's name in the store."""
        return record_key(self.unit, self.sequence)

    def to_json(self) -> bytes:
        """Return the one text of this record."""
        return canonical_json({"format": FORMAT_VERSION, **asdict(self)})


def put_record(objects: Objects, record: Record) -> bool:
    """Write a record; False where another worker wrote that number first."""
    return objects.create(record.key, [record.to_json()])


def read_record(objects: Objects, unit: int) -> Record | None:
    """Return the unit's latest record, or None where there is none."""
    keys = list(objects.keys(f"{COMMITS}/{unit:06d}"))
    return _parse(objects, _latest(keys)[unit]) if (keys := _records(keys)) else None


def record_key(unit: int, sequence: int) -> str:
    """Return a record's name in the store."""
    return f"{COMMITS}/{unit:06d}/{sequence}.json"


def read_record_at(objects: Objects, unit: int, sequence: int) -> Record:
    """Return one record of a unit; raises FileNotFoundError where there is none."""
    return _parse(objects, record_key(unit, sequence))


def latest_records(objects: Objects) -> Iterator[Record]:
    """Yield the latest record of every unit that has one, in the order of the units."""
    return read_many(objects, list(_latest(_records(objects.keys(COMMITS))).values()))


def read_many(objects: Objects, keys: Sequence[str]) -> Iterator[Record]:
    """Yield the records of these names, in their order."""
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(keys), _READ_AHEAD):
            yield from pool.map(lambda key: _parse(objects, key), keys[start : start + _READ_AHEAD])


def read_records(objects: Objects) -> dict[int, Record]:
    """Return the latest record of every unit that has one, by unit."""
    return {record.unit: record for record in latest_records(objects)}


def _records(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if key.endswith(".json")]


def _latest(keys: Iterable[str]) -> dict[int, str]:
    latest: dict[int, tuple[int, str]] = {}
    for key in keys:
        unit, sequence = (int(part.removesuffix(".json")) for part in key.split("/")[-2:])
        latest[unit] = max(latest.get(unit, (-1, "")), (sequence, key))
    return {unit: latest[unit][1] for unit in sorted(latest)}


def _parse(objects: Objects, key: str) -> Record:
    try:
        document = json.loads(objects.read(key))
        if document.pop("format") not in READABLE_FORMATS:
            raise StoreError(f"{objects.url}/{key}: written by another version of vega3d")
        document["scenes"] = [SceneRecord(**scene) for scene in document["scenes"]]
        document["objects"] = {
            name: ObjectRecord(**value) for name, value in document["objects"].items()
        }
        return Record(**document)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise StoreError(
            f"{objects.url}/{key}: not a commit record ({error}); remove that file and run the "
            "same command again: its unit will be validated and committed anew"
        ) from error
