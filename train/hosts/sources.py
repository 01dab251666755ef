"""Where a host's prior comes from: a store, or an encoder that runs beside it.

Letters: V views, h w cells of a view's grid over the whole image, C channels.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.grid import pool_to_grid
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.store.store import JoinedStore, Store

Views = tuple[str, Sequence[int]]
"""A scene and the places of its views, in the order in which the host sees them."""


class PriorSource(Protocol):
    """What gives the prior's tokens of views."""

    num_channels: int

    def tokens(self, scene_id: str, views: Sequence[int]) -> Float32[Tensor, "V h w C"]:
        """Return the tokens of some views of a scene."""


class StoredPrior:
    """The cached prior: at training time."""

    def __init__(self, store: Store | JoinedStore, tap: str | None = None) -> None:
        """Take a store's tap; None where it has one only."""
        if tap is None and len(store.taps) > 1:
            raise UsageError(f"the store has several taps; give `tap` one of {list(store.taps)}")
        self.store, self.tap = store, tap or str(store.taps[0])
        self.num_channels = int(store.num_channels(self.tap))

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of every channel over the store."""
        stats = self.store.channel_stats(self.tap)
        return stats["mean"], stats["std"]

    def tokens(self, scene_id: str, views: Sequence[int]) -> Float32[Tensor, "V h w C"]:
        """Read the tokens of some views of a scene."""
        features = self.store.features(scene_id, tap=self.tap)
        if bad := [view for view in views if not 0 <= view < len(features)]:
            raise UsageError(
                f"{scene_id} has {len(features)} views in the store, not view {bad[0]}"
            )
        return torch.from_numpy(np.asarray(features[list(views)], dtype=np.float32))


class OnlinePrior:
    """The same encoder, run on the views at hand: at inference."""

    def __init__(self, backbone: Backbone, grid: tuple[int, int] = (14, 14)) -> None:
        """Take an encoder with one tap, and the grid that the stores have."""
        self.backbone, self.grid = backbone, grid
        self._tokens: dict[str, Tensor] = {}
        self.num_channels = int(backbone.channels)

    def see(
        self, scene_id: str, rgb: UInt8[np.ndarray, "V H W 3"], view_ids: Sequence[str]
    ) -> None:
        """Encode the views of a scene; their places are their order here."""
        features = self.backbone.encode(rgb, scene_id=scene_id, view_ids=list(view_ids))
        if len(features) != 1:
            raise UsageError(f"a host takes one tap, the encoder gives {list(features)}")
        (raw,) = features.values()
        height, width = rgb.shape[1:3]
        token_map = self.backbone.token_map(height, width)
        pooled, _ = pool_to_grid(raw.float().cpu().numpy(), token_map, height, width, self.grid)
        self._tokens[scene_id] = torch.from_numpy(np.asarray(pooled, dtype=np.float32))

    def tokens(self, scene_id: str, views: Sequence[int]) -> Float32[Tensor, "V h w C"]:
        """Return the tokens of views that `see` was given."""
        if scene_id not in self._tokens:
            raise UsageError(f"{scene_id} was not seen: call see(scene_id, rgb, view_ids) first")
        return self._tokens[scene_id][list(views)]
