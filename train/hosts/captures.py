"""The views that a host sees: those of the store, decoded from the source it was made of."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.scene import SceneSource, View
from vega3d.pipeline.store.store import JoinedStore, Store


class Captures:
    """Pixels of the scenes' chosen views; those of the last scenes are kept."""

    def __init__(
        self, source: SceneSource, store: Store | JoinedStore, num_views: int, held: int
    ) -> None:
        """Take where the pixels are and which views have a prior.

        Args:
            source: Lists and reads scenes.
            store: The prior's.
            num_views: Views of a scene, evenly over those of the store; a scene may have fewer.
            held: Scenes kept decoded.
        """
        self._source, self._store = source, store
        self._num_views, self._held = num_views, held
        self._kept: OrderedDict[str, list[np.ndarray]] = OrderedDict()

    def views(self, scene_id: str) -> tuple[int, ...]:
        """Return the places of a scene's chosen views in the store."""
        count = len(self._store.view_ids(scene_id))
        if count <= self._num_views:
            return tuple(range(count))
        return tuple(np.linspace(0, count - 1, self._num_views).round().astype(int).tolist())

    def rgb(self, scene_id: str) -> Sequence[UInt8[np.ndarray, "H W 3"]]:
        """Return the pixels of a scene's chosen views, upright as the store's.

        Raises:
            UsageError: The source has no such scene or view.
        """
        if scene_id not in self._kept:
            self._kept[scene_id] = self._decoded(scene_id)
            while len(self._kept) > self._held:
                self._kept.popitem(last=False)
        self._kept.move_to_end(scene_id)
        return self._kept[scene_id]

    def _decoded(self, scene_id: str) -> list[np.ndarray]:
        ids = self._store.view_ids(scene_id)
        wanted = [ids[index] for index in self.views(scene_id)]
        known = {view.view_id: view for view in self._source.read(scene_id).views}
        if missing := [view_id for view_id in wanted if view_id not in known]:
            raise UsageError(
                f"{scene_id}: the store has view {missing[0]} and --scenes has not; give the "
                "SCENES that the prior was extracted from"
            )
        stored = [known[view_id].read_rgb() for view_id in wanted]
        upright = [
            np.ascontiguousarray(np.rot90(rgb, -_turns(known[view_id])))
            for rgb, view_id in zip(stored, wanted, strict=True)
        ]
        # As the store's: all are turned, or none where their sizes would then differ.
        is_one_size = len({rgb.shape for rgb in upright}) <= len({rgb.shape for rgb in stored})
        return upright if is_one_size else stored


def _turns(view: View) -> int:
    return view.read_turns() if view.read_turns else 0
