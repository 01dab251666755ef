"""What is committed in a store: an index of the scenes in memory, the records on disk.

A record holds every pose of its scenes. All of them at once are more than the readers of a large
store want in memory, so a record is read again when it is asked for: it never changes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.commits import (
    Record,
    SceneRecord,
    latest_records,
    read_many,
    read_record_at,
    record_key,
)
from vega3d.pipeline.store.identity import canonical_json
from vega3d.pipeline.store.objects import Objects

_RECORDS_HELD = 8


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
        checksums: Digest of the checksums of all committed objects.
    """

    def __init__(self, objects: Objects) -> None:
        """Read every record once."""
        self.scenes: dict[str, CommittedScene] = {}
        self.failures: dict[str, str] = {}
        self._objects = objects
        self._sequence: dict[int, int] = {}
        shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # scenes often name views alike
        digest = sha256()
        for record in latest_records(objects):
            if record.kind != "commit":
                continue
            self._sequence[record.unit] = record.sequence
            names = sorted((key, entry.sha256) for key, entry in record.objects.items())
            digest.update(canonical_json([record.unit, names]))
            for scene in record.scenes:
                if scene.failure:
                    self.failures[scene.scene_id] = scene.failure
                    continue
                views = tuple(scene.view_ids)
                self.scenes[scene.scene_id] = CommittedScene(
                    record.unit, scene.row, shared.setdefault(views, views), scene.content_sha256
                )
        self.checksums = digest.hexdigest()
        self._held: dict[int, Record] = {}

    def __getitem__(self, unit: int) -> Record:
        """Read the commit of a unit."""
        record = self._held.get(unit)
        if record is None:
            record = self._read(unit)
            if len(self._held) >= _RECORDS_HELD:
                self._held.clear()
            self._held[unit] = record
        return record

    def __iter__(self) -> Iterator[int]:
        """Iterate over the committed units."""
        return iter(self._sequence)

    def __len__(self) -> int:
        """Return the number of committed units."""
        return len(self._sequence)

    def scene(self, scene_id: str) -> SceneRecord:
        """Read everything that was recorded of one of `scenes`."""
        unit = self.scenes[scene_id].unit
        for scene in self[unit].scenes:
            if scene.scene_id == scene_id:
                return scene
        raise StoreError(
            f"{self._objects.url}: the commit of unit {unit} no longer speaks of {scene_id}; open "
            "the store again"
        )

    def read_all(self) -> dict[int, Record]:
        """Read the commits of all units at once, many at a time."""
        keys = [record_key(unit, sequence) for unit, sequence in self._sequence.items()]
        return {record.unit: record for record in read_many(self._objects, keys)}

    def _read(self, unit: int) -> Record:
        try:
            return read_record_at(self._objects, unit, self._sequence[unit])
        except FileNotFoundError as error:
            raise StoreError(
                f"{self._objects.url}: the commit of unit {unit} was removed while the store was "
                "open; open it again, and run the extraction again if scenes are missing"
            ) from error
