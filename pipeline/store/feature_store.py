"""What every reader of features offers: one store, or several that are read as one.

Letters: V real views of a scene, gh x gw the common token grid, C channels. World positions are
metres in the scene's own world frame; NaN where there is no depth or no pose.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt8

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.committed import CommittedScene
from vega3d.pipeline.store.layout import STATS
from vega3d.pipeline.store.moments import merged_moments, stats_of
from vega3d.pipeline.store.notes import SceneNote
from vega3d.pipeline.store.record import SceneRecord, unpack_matrices


class FeatureStore(ABC):
    """Scenes that have features, read by their ids; the subclasses say where they lie.

    Every method that takes a scene id raises StoreError where there is no such scene, and where
    the stored bytes are damaged.
    """

    url: str
    """The place; several are joined by commas."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that decides the stored bytes; the config is under `config`."""

    @property
    @abstractmethod
    def config_digest(self) -> str:
        """Digest of the identity, the model's name left out."""

    @property
    @abstractmethod
    def units(self) -> tuple[tuple[str, ...], ...]:
        """The planned scenes of each shard."""

    @property
    @abstractmethod
    def scene_ids(self) -> tuple[str, ...]:
        """The scenes that have features, in row order."""

    @property
    @abstractmethod
    def failures(self) -> Mapping[str, str]:
        """Reason of each scene that failed, and is in no other of several stores either."""

    @property
    @abstractmethod
    def pending(self) -> tuple[str, ...]:
        """Planned scenes that no commit speaks of yet."""

    @abstractmethod
    def digest(self) -> str:
        """Return the hash of all that is stored: config, rows, scenes and shards (FORMAT.md)."""

    @abstractmethod
    def scene(self, scene_id: str) -> CommittedScene:
        """Return where a scene lies."""

    @abstractmethod
    def record(self, scene_id: str) -> SceneRecord:
        """Return everything that was recorded of a scene."""

    @abstractmethod
    def views(self, quantity: str, scene_id: str) -> np.ndarray:
        """Return a tap or another quantity of each real view of a scene."""

    @abstractmethod
    def moments(self, tap: str | None = None) -> Iterator[Float64[np.ndarray, "4 C"]]:
        """Yield each scene's `MOMENTS` of each channel."""

    @abstractmethod
    def note(self, scene_id: str) -> SceneNote | None:
        """Return what was noted when a scene was read; None where nothing was, or of another."""

    @abstractmethod
    def notes(self) -> Mapping[str, SceneNote]:
        """Return all notes that speak of what is committed, by scene."""

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
    def saw_pixels(self) -> bool:
        """Whether the features were computed here, by known weights; imported ones were not."""
        return "weights_sha256" in self.identity

    def num_channels(self, tap: str | None = None) -> int:
        """Return the width of a tap."""
        self.tap(tap)
        return int(self.identity["channels"])

    def tap(self, tap: str | None) -> str:
        """Return the tap that is meant; it may be left out where there is only one."""
        if tap is None and len(self.taps) == 1:
            return self.taps[0]
        if tap in self.taps:
            return tap
        raise StoreError(f"{self.url}: no tap {tap!r}; the taps are {list(self.taps)}")

    def num_views(self, scene_id: str) -> int:
        """Return the number of real views of a scene."""
        return len(self.scene(scene_id).view_ids)

    def view_ids(self, scene_id: str) -> tuple[str, ...]:
        """Return the ids of a scene's views, in the order of its features."""
        return self.scene(scene_id).view_ids

    def row(self, scene_id: str) -> int:
        """Return a scene's place on the scene axis of its store."""
        return self.scene(scene_id).row

    def content_sha256(self, scene_id: str) -> str:
        """Return the hash of the pixels, depths and cameras that the features came from."""
        return self.scene(scene_id).content_sha256

    def pixels_sha256(self, scene_id: str) -> str:
        """Return the same hash; "" where features were imported and nobody saw their pixels."""
        return self.content_sha256(scene_id) if self.saw_pixels else ""

    def features(self, scene_id: str, tap: str | None = None) -> Float[np.ndarray, "V gh gw C"]:
        """Return a scene's features in the stored type; NaN where a crop hid the token.

        Args:
            scene_id: One of `scene_ids`.
            tap: One of `taps`; may be left out where there is only one.
        """
        return self.views(self.tap(tap), scene_id)

    def world_xyz(self, scene_id: str) -> Float32[np.ndarray, "V gh gw 3"]:
        """Return each token's position: the median over its pixels with depth."""
        return self.views("world_xyz", scene_id)

    def center_xyz(self, scene_id: str) -> Float32[np.ndarray, "V gh gw 3"]:
        """Return the position at each token's centre pixel."""
        return self.views("center_xyz", scene_id)

    def depth_share(self, scene_id: str) -> Float32[np.ndarray, "V gh gw"]:
        """Return the share of each token's pixels that have depth; NaN without a depth image."""
        return self.views("depth_share", scene_id)

    def coverage(self, scene_id: str) -> Float32[np.ndarray, "V gh gw"]:
        """Return the share of each token that the backbone saw."""
        return self.views("coverage", scene_id)

    def preview(self, scene_id: str) -> UInt8[np.ndarray, "V ph pw 3"]:
        """Return small pictures of the whole image, squashed to 8 x 8 px a token; 0 where none."""
        return self.views("preview", scene_id)

    def world_from_camera(self, scene_id: str) -> Float64[np.ndarray, "V 4 4"]:
        """Return the poses; NaN where unknown."""
        record = self.record(scene_id)
        return unpack_matrices(record.world_from_camera, len(record.view_ids), 4)

    def intrinsics(self, scene_id: str) -> Float64[np.ndarray, "V 3 3"]:
        """Return the colour images' intrinsics, px; NaN where unknown."""
        record = self.record(scene_id)
        return unpack_matrices(record.intrinsics, len(record.view_ids), 3)

    def image_size(self, scene_id: str) -> Int[np.ndarray, "V 2"]:
        """Return height and width of the colour images, px."""
        return np.array(self.record(scene_id).image_size, dtype=np.int64).reshape(-1, 2)

    def channel_stats(self, tap: str | None = None) -> dict[str, Float64[np.ndarray, " C"]]:
        """Return mean, std and absmax of each channel over all committed scenes."""
        merged = merged_moments(self.moments(tap), self.num_channels(tap))
        return dict(zip(STATS, stats_of(merged), strict=True))
