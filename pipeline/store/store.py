"""Reading stores: committed scenes only, real views only.

`open_store` gives one store or several read as one. Letters: V real views of a scene, gh x gw the
common token grid, C channels. World positions are metres in the scene's own world frame; NaN
where there is no depth or no pose.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt8

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.commits import ROWS, SceneRecord
from vega3d.pipeline.store.committed import Committed, CommittedScene
from vega3d.pipeline.store.identity import canonical_json, differing_fields, sha256_of
from vega3d.pipeline.store.layout import STATS, parse_attributes
from vega3d.pipeline.store.merge import channel_stats
from vega3d.pipeline.store.objects import open_objects, zarr_store


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
        return parse_attributes(open_objects(url).read("zarr.json"))
    except (FileNotFoundError, NotADirectoryError):
        return None


@dataclass(frozen=True)
class Store:
    """One store. Rows of units that are not committed, and of failed scenes, do not exist here."""

    url: str
    attributes: dict[str, Any]
    planned: dict[str, int] = field(repr=False)
    """Views of every planned scene, in row order."""
    records: Committed = field(repr=False, compare=False)

    @classmethod
    def open(cls, url: str) -> "Store":
        """Read the metadata and the commit records; no features yet."""
        objects = open_objects(url)
        try:
            attributes = parse_attributes(objects.read("zarr.json"))
            rows = json.loads(objects.read(ROWS))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreError(f"{url}: there is no vega3d store here") from error
        except json.JSONDecodeError as error:
            raise StoreError(f"{url}: the store's metadata is damaged: {error}") from error
        planned = {row["scene_id"]: int(row["num_views"]) for row in rows}
        return cls(objects.url, attributes, planned, Committed(objects))

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the stored bytes; the config is under `config`."""
        return cast("dict[str, Any]", self.attributes["identity"])

    @property
    def config_digest(self) -> str:
        """Digest of the identity, the model's name left out."""
        return str(self.attributes["config_digest"])

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the feature arrays."""
        return tuple(self.identity["taps"])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the common token grid."""
        rows, cols = self.identity["config"]["grid"]
        return int(rows), int(cols)

    @property
    def units(self) -> tuple[tuple[str, ...], ...]:
        """The planned scenes of each shard."""
        ids = list(self.planned)
        step = int(self.attributes["scenes_per_shard"])
        return tuple(tuple(ids[i : i + step]) for i in range(0, len(ids), step))

    @property
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
        """Return the sha256 of config, row table and the committed objects' checksums."""
        parts = [self.config_digest, self.attributes["rows_sha256"], self.records.checksums]
        return sha256_of([canonical_json(parts)])

    def num_channels(self, tap: str | None = None) -> int:
        """Return the width of a tap."""
        return int(self._array(self._tap(tap)).shape[-1])

    def num_views(self, scene_id: str) -> int:
        """Return the number of real views of a scene."""
        return len(self._scene(scene_id).view_ids)

    def view_ids(self, scene_id: str) -> tuple[str, ...]:
        """Return the ids of a scene's views, in the order of its features."""
        return self._scene(scene_id).view_ids

    def row(self, scene_id: str) -> int:
        """Return a scene's place on the scene axis."""
        return self._scene(scene_id).row

    def content_sha256(self, scene_id: str) -> str:
        """Return the hash of the pixels, depths and cameras that the features came from."""
        return self._scene(scene_id).content_sha256

    @property
    def saw_pixels(self) -> bool:
        """Whether the features were computed here, by known weights; imported ones were not."""
        return "weights_sha256" in self.identity

    def pixels_sha256(self, scene_id: str) -> str:
        """Return the same hash; "" where features were imported and nobody saw their pixels."""
        return self.content_sha256(scene_id) if self.saw_pixels else ""

    def features(self, scene_id: str, tap: str | None = None) -> Float[np.ndarray, "V gh gw C"]:
        """Return a scene's features in the stored type; NaN where a crop hid the token.

        Args:
            scene_id: One of `scene_ids`.
            tap: One of `taps`; may be left out where there is only one.

        Raises:
            StoreError: No such scene or tap, or the stored bytes are damaged.
        """
        return self._views(self._tap(tap), scene_id)

    def world_xyz(self, scene_id: str) -> Float32[np.ndarray, "V gh gw 3"]:
        """Return each token's position: the median over its pixels with depth."""
        return self._views("world_xyz", scene_id)

    def center_xyz(self, scene_id: str) -> Float32[np.ndarray, "V gh gw 3"]:
        """Return the position at each token's centre pixel."""
        return self._views("center_xyz", scene_id)

    def depth_share(self, scene_id: str) -> Float32[np.ndarray, "V gh gw"]:
        """Return the share of each token's pixels that have depth; NaN without a depth image."""
        return self._views("depth_share", scene_id)

    def coverage(self, scene_id: str) -> Float32[np.ndarray, "V gh gw"]:
        """Return the share of each token that the backbone saw."""
        return self._views("coverage", scene_id)

    def preview(self, scene_id: str) -> UInt8[np.ndarray, "V ph pw 3"]:
        """Return small pictures of the whole image, squashed to 8 x 8 px a token."""
        return self._views("preview", scene_id)

    def world_from_camera(self, scene_id: str) -> Float64[np.ndarray, "V 4 4"]:
        """Return the poses; NaN where unknown."""
        return _stacked(self._record(scene_id).world_from_camera, 4)

    def intrinsics(self, scene_id: str) -> Float64[np.ndarray, "V 3 3"]:
        """Return the colour images' intrinsics, px; NaN where unknown."""
        return _stacked(self._record(scene_id).intrinsics, 3)

    def image_size(self, scene_id: str) -> Int[np.ndarray, "V 2"]:
        """Return height and width of the colour images, px."""
        return np.array(self._record(scene_id).image_size, dtype=np.int64).reshape(-1, 2)

    def channel_stats(self, tap: str | None = None) -> dict[str, Float64[np.ndarray, " C"]]:
        """Return mean, std and absmax of each channel over all committed scenes."""
        stats = channel_stats(self.moments(tap), self.num_channels(tap))
        return dict(zip(STATS, stats, strict=True))

    def moments(self, tap: str | None = None) -> Iterator[Float64[np.ndarray, "4 C"]]:
        """Yield each scene's count, sum, sum of squares and absmax of each channel."""
        array = self._array(f"moments_{self._tap(tap)}")
        return (np.asarray(array[self.row(name)]) for name in self.scene_ids)

    def _record(self, scene_id: str) -> SceneRecord:
        self._scene(scene_id)  # says what is wrong with the name
        return self.records.scene(scene_id)

    def _scene(self, scene_id: str) -> CommittedScene:
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

    def _tap(self, tap: str | None) -> str:
        if tap is None and len(self.taps) == 1:
            return self.taps[0]
        if tap in self.taps:
            return tap
        raise StoreError(f"{self.url}: no tap {tap!r}; the taps are {list(self.taps)}")

    def _array(self, name: str) -> Any:  # noqa: ANN401 - zarr.Array
        if name not in self._arrays:
            import zarr

            self._arrays[name] = zarr.open_array(zarr_store(self.url), path=name, mode="r")
        return self._arrays[name]

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return {}

    def _views(self, name: str, scene_id: str) -> np.ndarray:
        scene = self._scene(scene_id)
        self.check_shard(name, scene.row)
        try:
            return np.asarray(self._array(name)[scene.row, : len(scene.view_ids)])
        except ValueError as error:  # zarr's word for a checksum that does not match
            raise StoreError(
                f"{self.url}: {name} of {scene_id} is damaged ({error}); run "
                "`vega3d-extract verify STORE --repair`, then the extraction again"
            ) from error

    def check_shard(self, name: str, row: int) -> None:
        """Raise StoreError where the shard of an array that holds a committed row is gone.

        Zarr would read it as NaN. Each shard is looked for once.
        """
        unit = row // int(self.attributes["scenes_per_shard"])
        if (name, unit) in self._seen_shards:
            return
        prefix = f"{name}/c/{unit}/"
        key = next(key for key in self.records[unit].objects if key.startswith(prefix))
        if not open_objects(self.url).exists(key):
            raise StoreError(
                f"{self.url}: {key} is committed but gone; run `vega3d-extract verify STORE "
                "--repair`, then the extraction again"
            )
        self._seen_shards.add((name, unit))

    @cached_property
    def _seen_shards(self) -> set[tuple[str, int]]:
        return set()


@dataclass(frozen=True)
class JoinedStore:
    """Several stores of one config, read as one; scenes in the order of the stores."""

    stores: tuple[Store, ...]
    home: dict[str, Store] = field(repr=False)

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
    def url(self) -> str:
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
    def taps(self) -> tuple[str, ...]:
        """Names of the feature arrays."""
        return self.stores[0].taps

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the common token grid."""
        return self.stores[0].grid

    @property
    def scene_ids(self) -> tuple[str, ...]:
        """The scenes that have features."""
        return tuple(self.home)

    @property
    def units(self) -> tuple[tuple[str, ...], ...]:
        """The planned scenes of each shard of each store."""
        return tuple(unit for store in self.stores for unit in store.units)

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

    def num_channels(self, tap: str | None = None) -> int:
        """Return the width of a tap."""
        return self.stores[0].num_channels(tap)

    def channel_stats(self, tap: str | None = None) -> dict[str, Float64[np.ndarray, " C"]]:
        """Return mean, std and absmax of each channel over all committed scenes."""
        moments = (scene for store in self.stores for scene in store.moments(tap))
        return dict(zip(STATS, channel_stats(moments, self.num_channels(tap)), strict=True))

    def features(self, scene_id: str, tap: str | None = None) -> Float[np.ndarray, "V gh gw C"]:
        """Return a scene's features in the stored type."""
        return self._home(scene_id).features(scene_id, tap)

    def num_views(self, scene_id: str) -> int:
        """Return the number of real views of a scene."""
        return self._home(scene_id).num_views(scene_id)

    def view_ids(self, scene_id: str) -> tuple[str, ...]:
        """Return the ids of a scene's views."""
        return self._home(scene_id).view_ids(scene_id)

    def content_sha256(self, scene_id: str) -> str:
        """Return the hash of what a scene's features came from."""
        return self._home(scene_id).content_sha256(scene_id)

    def pixels_sha256(self, scene_id: str) -> str:
        """Return the same hash; "" where features were imported."""
        return self._home(scene_id).pixels_sha256(scene_id)

    def world_xyz(self, scene_id: str) -> Float32[np.ndarray, "V gh gw 3"]:
        """Return each token's position."""
        return self._home(scene_id).world_xyz(scene_id)

    def center_xyz(self, scene_id: str) -> Float32[np.ndarray, "V gh gw 3"]:
        """Return the position at each token's centre pixel."""
        return self._home(scene_id).center_xyz(scene_id)

    def depth_share(self, scene_id: str) -> Float32[np.ndarray, "V gh gw"]:
        """Return the share of each token's pixels that have depth."""
        return self._home(scene_id).depth_share(scene_id)

    def coverage(self, scene_id: str) -> Float32[np.ndarray, "V gh gw"]:
        """Return the share of each token that the backbone saw."""
        return self._home(scene_id).coverage(scene_id)

    def preview(self, scene_id: str) -> UInt8[np.ndarray, "V ph pw 3"]:
        """Return small pictures of the views."""
        return self._home(scene_id).preview(scene_id)

    def world_from_camera(self, scene_id: str) -> Float64[np.ndarray, "V 4 4"]:
        """Return the poses."""
        return self._home(scene_id).world_from_camera(scene_id)

    def intrinsics(self, scene_id: str) -> Float64[np.ndarray, "V 3 3"]:
        """Return the colour images' intrinsics, px."""
        return self._home(scene_id).intrinsics(scene_id)

    def image_size(self, scene_id: str) -> Int[np.ndarray, "V 2"]:
        """Return height and width of the colour images, px."""
        return self._home(scene_id).image_size(scene_id)

    def _home(self, scene_id: str) -> Store:
        return self.home.get(scene_id, self.stores[0])


def _stacked(values: Sequence[Any], size: int) -> np.ndarray:
    unknown = np.full((size, size), np.nan)
    matrices = [unknown if value is None else np.array(value, dtype=np.float64) for value in values]
    return np.stack(matrices) if matrices else np.empty((0, size, size))
