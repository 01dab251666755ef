"""Reading stores: committed scenes only, real views only.

`open_store` gives one store, or several read as one; what can be asked of either is in
`feature_store.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from jaxtyping import Float64

from vega3d.pipeline.errors import NoStoreError, StoreError
from vega3d.pipeline.store import format_1
from vega3d.pipeline.store.committed import Committed, CommittedScene
from vega3d.pipeline.store.feature_store import FeatureStore
from vega3d.pipeline.store.identity import canonical_json, differing_fields, sha256_of
from vega3d.pipeline.store.layout import ArraySpec
from vega3d.pipeline.store.metadata import ROOT, filled
from vega3d.pipeline.store.notes import SceneNote, read_all_notes, read_notes
from vega3d.pipeline.store.objects import open_objects
from vega3d.pipeline.store.reading import ShardReader, numbers_of
from vega3d.pipeline.store.record import SceneRecord
from vega3d.pipeline.store.records import Records
from vega3d.pipeline.store.root import COPY, Root, parse_attributes, read_root
from vega3d.pipeline.store.scene_arrays import rounded_features
from vega3d.pipeline.store.schema import SchemaError


def open_store(location: str | Sequence[str]) -> "Store | JoinedStore":
    """Open a store for reading, or several that were made with one config as one.

    Args:
        location: Folder or URL; or a list of them.

    Raises:
        StoreError: There is no store, or the stores differ in config or share a scene.
    """
    if isinstance(location, str):
        return Store.open(location)
    stores = tuple(Store.open(url) for url in location)
    if not stores:
        raise StoreError("open_store needs at least one store")
    return stores[0] if len(stores) == 1 else JoinedStore.of(stores)


def stored_attributes(url: str) -> dict[str, Any] | None:
    """Return what a store's root says of it, or None where there is no store."""
    try:
        found = parse_attributes(open_objects(url).read(ROOT), f"{url}/{ROOT}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return cast("dict[str, Any]", found["vega3d"])


@dataclass(frozen=True)
class Store(FeatureStore):
    """One store. Rows of units that are not committed, and of failed scenes, do not exist here."""

    url: str
    root: Root = field(repr=False)
    records: Committed = field(repr=False, compare=False)

    @classmethod
    def open(cls, url: str) -> "Store":
        """Read the metadata, and what is committed; no features yet."""
        objects = open_objects(url)
        try:
            root = read_root(objects)
        except (FileNotFoundError, NotADirectoryError) as error:
            if objects.exists(COPY):
                raise StoreError(f"{url}: the store's {ROOT} is gone; {_REMEDY}") from error
            raise NoStoreError(url) from error
        except SchemaError as error:
            raise StoreError(f"{error}: it is damaged; {_REMEDY}") from error
        return cls(objects.url, root, Committed(Records(objects, root.format), root.layout))

    @property
    def attributes(self) -> dict[str, Any]:
        """What the store was made from: identity, numerics, scenes per shard, format."""
        return self.root.ours

    @property
    def planned(self) -> dict[str, int]:
        """Views of every planned scene, in row order."""
        return {scene.scene_id: scene.num_views for scene in self.root.layout.plan.scenes}

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the stored bytes; the config is under `config`."""
        return cast("dict[str, Any]", self.attributes["identity"])

    @property
    def config_digest(self) -> str:
        """Digest of the identity, the model's name left out."""
        return str(self.attributes["config_digest"])

    @property
    def units(self) -> tuple[tuple[str, ...], ...]:
        """The planned scenes of each shard."""
        return tuple(unit.scene_ids for unit in self.root.layout.plan.units)

    @cached_property
    def scene_ids(self) -> tuple[str, ...]:
        """The scenes that have features, in row order."""
        return tuple(self.records.scenes)

    @property
    def failures(self) -> dict[str, str]:
        """Reason of each scene that failed."""
        return self.records.failures

    @cached_property
    def pending(self) -> tuple[str, ...]:
        """Planned scenes that no commit speaks of yet."""
        done = self.records.scenes.keys() | self.failures.keys()
        return tuple(scene_id for scene_id in self.planned if scene_id not in done)

    def digest(self) -> str:
        """Return the hash of all that is stored: config, rows, scenes and shards (FORMAT.md)."""
        parts: list[object] = [self.config_digest, self.attributes["rows_sha256"]]
        if self.root.format == 1:
            parts.append(format_1.checksums(self.records.read_all().values()))
        else:
            parts += [self.attributes["scenes_per_shard"], self.records.digests]
        return sha256_of([canonical_json(parts)])

    def scene(self, scene_id: str) -> CommittedScene:
        """Return where a scene lies."""
        if scene_id in self.records.scenes:
            return self.records.scenes[scene_id]
        if scene_id in self.failures:
            raise StoreError(f"{self.url}: {scene_id} failed: {self.failures[scene_id]}")
        if scene_id in self.pending:
            raise StoreError(
                f"{self.url}: {scene_id} is planned but not committed; run the extraction again"
            )
        raise StoreError(
            f"{self.url}: no scene {scene_id!r}; it has {len(self.scene_ids)} scenes, "
            f"such as {list(self.scene_ids[:3])}"
        )

    def record(self, scene_id: str) -> SceneRecord:
        """Return everything that was recorded of a scene."""
        self.scene(scene_id)  # says what is wrong with the name
        return self.records.scene(scene_id)

    def note(self, scene_id: str) -> SceneNote | None:
        """Return what was noted when a scene was read; None where nothing was, or of another."""
        scene = self.scene(scene_id)
        if scene.unit not in self._notes:
            self._notes[scene.unit] = read_notes(open_objects(self.url), scene.unit)
        note = self._notes[scene.unit].get(scene_id)
        return note if note and note.content_sha256 == scene.content_sha256 else None

    def notes(self) -> dict[str, SceneNote]:
        """Return all notes that speak of what is committed, by scene."""
        found = read_all_notes(open_objects(self.url), self.records)
        return {
            scene_id: note
            for scene_id, scene in self.records.scenes.items()
            if (note := found.get(scene_id)) and note.content_sha256 == scene.content_sha256
        }

    def views(self, quantity: str, scene_id: str) -> np.ndarray:
        """Return a tap or another quantity of each real view of a scene."""
        scene = self.scene(scene_id)
        spec, pick = self.root.layout.holds(quantity)
        chunks = self._chunks(spec, scene.row, range(len(scene.view_ids)))
        empty = filled(spec, *spec.chunk)
        whole = np.concatenate([empty if chunk is None else chunk for chunk in chunks])[:, 0]
        return np.ascontiguousarray(numbers_of(spec, whole)[pick])

    def view(self, tap: str, row: int, view: int) -> np.ndarray:
        """Return one view of a committed row, [gh, gw, C], in the type that readers get."""
        spec = self.root.layout.find(tap)
        (chunk,) = self._chunks(spec, row, [view])
        if chunk is None:
            raise StoreError(f"{self.url}: {tap} has no view {view} in row {row}")
        return numbers_of(spec, np.asarray(chunk[0, 0]))

    def through(self, features: np.ndarray, tap: str) -> np.ndarray:
        """Return features, float32 [V, gh, gw, C], as they would come back from this store."""
        spec = self.root.layout.find(tap)
        return numbers_of(spec, rounded_features(features, spec))

    def shard_key(self, name: str, row: int) -> str:
        """Return the name of the object that holds a committed row of an array."""
        unit = row // self.root.layout.plan.scenes_per_shard
        return self.records.key(self.root.layout.find(name), unit)

    def moments(self, tap: str | None = None) -> Iterator[Float64[np.ndarray, "4 C"]]:
        """Yield each scene's `MOMENTS` of each channel."""
        spec, pick = self.root.layout.holds_moments(self.tap(tap))
        for scene in self.records.scenes.values():
            (chunk,) = self._chunks(spec, scene.row, [0])
            if chunk is None:
                raise StoreError(f"{self.url}: row {scene.row} of {spec.name} is not there")
            found = chunk[0][pick]
            yield format_1.moments_of_sums(found) if self.root.format == 1 else found

    def _chunks(self, spec: ArraySpec, row: int, views: Sequence[int]) -> list[np.ndarray | None]:
        """Return a row's chunks of an array; of one without views, the only one."""
        unit, place = divmod(row, self.root.layout.plan.scenes_per_shard)
        rest = [0] * (len(spec.shape) - 2)
        places = [(place, view, *rest) for view in views]
        return self._reader.read(spec, self.records.key(spec, unit), places)

    @cached_property
    def _notes(self) -> dict[int, dict[str, SceneNote]]:
        return {}

    @cached_property
    def _reader(self) -> ShardReader:
        return ShardReader(open_objects(self.url))


@dataclass(frozen=True)
class JoinedStore(FeatureStore):
    """Several stores of one config, read as one; scenes in the order of the stores."""

    stores: tuple[Store, ...]
    home: dict[str, Store] = field(repr=False)
    """The store of each scene."""

    @classmethod
    def of(cls, stores: Sequence[Store]) -> "JoinedStore":
        """Join stores; raises StoreError where they differ in config or share a scene."""
        first = stores[0]
        home: dict[str, Store] = {}
        for store in stores:
            if store.config_digest != first.config_digest:
                fields = differing_fields(store.identity, first.identity)
                raise StoreError(
                    f"{store.url} and {first.url} differ in config and cannot be read as one: "
                    f"{'; '.join(fields[:8])}"
                )
            if twice := sorted(home.keys() & set(store.scene_ids)):
                raise StoreError(
                    f"{twice[0]!r} is in {home[twice[0]].url} and in {store.url}; "
                    f"{len(twice)} scenes are in both: leave one store out"
                )
            home |= dict.fromkeys(store.scene_ids, store)
        return cls(tuple(stores), home)

    @property
    def url(self) -> str:  # type: ignore[override]
        """The places, joined by commas."""
        return ",".join(store.url for store in self.stores)

    @property
    def identity(self) -> dict[str, Any]:
        """What all of them were made with."""
        return self.stores[0].identity

    @property
    def config_digest(self) -> str:
        """Digest of the identity, the model's name left out."""
        return self.stores[0].config_digest

    @property
    def units(self) -> tuple[tuple[str, ...], ...]:
        """The planned scenes of each shard of each store."""
        return tuple(unit for store in self.stores for unit in store.units)

    @cached_property
    def scene_ids(self) -> tuple[str, ...]:
        """The scenes that have features."""
        return tuple(self.home)

    @property
    def failures(self) -> dict[str, str]:
        """Reason of each scene that failed and is in no other store either."""
        found = {k: v for store in self.stores for k, v in store.failures.items()}
        return {scene_id: reason for scene_id, reason in found.items() if scene_id not in self.home}

    @property
    def pending(self) -> tuple[str, ...]:
        """Planned scenes that no commit speaks of yet."""
        names = (name for store in self.stores for name in store.pending)
        return tuple(name for name in names if name not in self.home)

    def digest(self) -> str:
        """Return the digest of the stores' digests."""
        return sha256_of([canonical_json([store.digest() for store in self.stores])])

    def scene(self, scene_id: str) -> CommittedScene:
        """Return where a scene lies in its store."""
        return self._home(scene_id).scene(scene_id)

    def record(self, scene_id: str) -> SceneRecord:
        """Return everything that was recorded of a scene."""
        return self._home(scene_id).record(scene_id)

    def note(self, scene_id: str) -> SceneNote | None:
        """Return what was noted when a scene was read; None where nothing was, or of another."""
        return self._home(scene_id).note(scene_id)

    def notes(self) -> dict[str, SceneNote]:
        """Return all notes that speak of what is committed, by scene."""
        return {name: note for store in self.stores for name, note in store.notes().items()}

    def views(self, quantity: str, scene_id: str) -> np.ndarray:
        """Return a tap or another quantity of each real view of a scene."""
        return self._home(scene_id).views(quantity, scene_id)

    def moments(self, tap: str | None = None) -> Iterator[Float64[np.ndarray, "4 C"]]:
        """Yield each scene's `MOMENTS` of each channel."""
        return (scene for store in self.stores for scene in store.moments(tap))

    def _home(self, scene_id: str) -> Store:
        return self.home.get(scene_id, self.stores[0])


_REMEDY = "run `vega3d-extract verify STORE --repair`"
