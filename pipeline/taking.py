"""What becomes of a scene's views while they go through an encoder and after.

Letters: V views, H W the images, gh gw the common token grid.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Protocol

import numpy as np

from vega3d.pipeline.backbones.backbone import Pooled
from vega3d.pipeline.backbones.grid import TokenMap, grid_cells
from vega3d.pipeline.backbones.resampling import resize
from vega3d.pipeline.cores import usable_cores
from vega3d.pipeline.scenes.geometry import TokenGeometry, token_positions
from vega3d.pipeline.scenes.scene import View
from vega3d.pipeline.store.layout import PREVIEW_PX
from vega3d.pipeline.store.scene_arrays import SceneArrays

_BESIDE = max(1, min(4, usable_cores() // 2))
"""Threads for what needs no model: pooling on a CPU, where tokens are, previews. As many cores are
left to those who decode."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some views of a scene with their pixels."""

    views: tuple[View, ...]
    rgb: np.ndarray
    """uint8 [n, H, W, 3]."""

    depth_m: tuple[np.ndarray | None, ...]


class Encodes(Protocol):
    """What is asked of an encoder here: a `Backbone`, or features that are known already."""

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of what `encode` returns."""
        ...

    @property
    def channels(self) -> int:
        """Width of every tap."""
        ...

    @property
    def views_at_once(self) -> int | None:
        """Views that go in together; None for all of a scene."""
        ...

    def canvas(self, image_height: int, image_width: int) -> tuple[int, int]:
        """Return rows and columns of the input, px."""
        ...

    def token_map(self, image_height: int, image_width: int) -> TokenMap:
        """Say where the tokens look."""
        ...

    def begin_pooled(
        self, rgb: np.ndarray, grid: tuple[int, int], *, scene_id: str, view_ids: Sequence[str]
    ) -> Callable[[], Pooled]:
        """Begin with views; return what hands over each tap's features on the common grid."""
        ...


Known = dict[bytes, list[TokenGeometry]]
"""Where a scene's tokens lie, by the way in which an encoder divides its images."""


class Taking:
    """What becomes of a scene's views while and after they go through the backbone.

    One part is in the encoder and one is taken out of it. All that no model is needed for runs in
    other threads: the one that feeds the model waits for nothing but the model.
    """

    def __init__(
        self,
        bare: SceneArrays,
        image_size: tuple[int, int],
        encoder: Encodes,
        grid: tuple[int, int],
        known: Known,
    ) -> None:
        """Expect the views of a scene.

        Args:
            bare: The scene without what comes of its pixels.
            image_size: Rows and columns of its images, px.
            encoder: What they go through.
            grid: The common token grid.
            known: Where its tokens lie, from other encoders; what is new is added.
        """
        self._bare, self._image_size, self._encoder, self._grid = bare, image_size, encoder, grid
        self._cells = grid_cells(encoder.token_map(*image_size), *image_size, grid)
        shape = (len(bare.view_ids), *grid, encoder.channels)
        self._features = {tap: np.empty(shape, dtype=np.float32) for tap in encoder.taps}
        self._known, self._division = known, np.concatenate(self._cells).tobytes()
        self._geometry = known.get(self._division, [])
        self._placing = not self._geometry
        self._coverage = np.empty(grid, dtype=np.float32)
        self._previews: list[np.ndarray] = []
        self._begun: _Begun | None = None
        self._given = self._done = 0

    def begin(self, part: Part) -> None:
        """Give views to the encoder, then take the ones before them."""
        ids = [view.view_id for view in part.views]
        place = partial(_placed, image_size=self._image_size, cells=self._cells)
        preview = _beside().submit(_previews, part.rgb, self._grid)
        seen = zip(part.views, part.depth_m, strict=True) if self._placing else ()
        placed = _beside().submit(lambda: [place(view, depth) for view, depth in seen])
        pooled = self._encoder.begin_pooled(
            part.rgb, self._grid, scene_id=self._bare.scene_id, view_ids=ids
        )
        kept = _beside().submit(self._keep, pooled, self._given, len(ids))
        self._given += len(ids)
        before, self._begun = self._begun, _Begun(len(ids), kept, placed, preview)
        self._take(before)

    def finish(self) -> SceneArrays:
        """Take the last views, and return the scene."""
        self._take(self._begun)
        self._known[self._division] = self._geometry
        coverage = np.broadcast_to(self._coverage, (self._done, *self._grid))
        return replace(
            self._bare,
            features=self._features,
            world_xyz=np.stack([view.world_xyz for view in self._geometry]),
            center_xyz=np.stack([view.center_xyz for view in self._geometry]),
            depth_share=np.stack([view.depth_share for view in self._geometry]),
            coverage=coverage,
            preview=np.concatenate(self._previews),
        )

    def _take(self, begun: "_Begun | None") -> None:
        if begun is None:
            return
        self._coverage = begun.kept.result()
        self._geometry += begun.placed.result()
        self._previews.append(begun.preview.result())
        self._done += begun.count

    def _keep(self, pooled: Callable[[], Pooled], start: int, count: int) -> np.ndarray:
        """Put what comes of some views to the others, and return the seen share of each cell."""
        found, coverage = pooled()
        for tap, values in found.items():
            self._features[tap][start : start + count] = values
        return coverage


@dataclass(frozen=True, slots=True)
class _Begun:
    """Views on their way."""

    count: int
    kept: Future[np.ndarray]
    placed: Future[list[TokenGeometry]]
    preview: Future[np.ndarray]


@cache
def _beside() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_BESIDE, thread_name_prefix="beside")


def _placed(
    view: View,
    depth_m: np.ndarray | None,
    *,
    image_size: tuple[int, int],
    cells: tuple[np.ndarray, np.ndarray],
) -> TokenGeometry:
    known = (view.K_depth, view.K_color, view.world_from_camera)
    if depth_m is None or any(camera is None for camera in known):
        grid = (len(cells[0]), len(cells[1]))
        nowhere = np.full((*grid, 3), np.nan, dtype=np.float32)
        share = np.full(grid, np.nan, dtype=np.float32)
        return TokenGeometry(world_xyz=nowhere, center_xyz=nowhere, depth_share=share)
    assert view.K_depth is not None  # for mypy: checked above
    assert view.K_color is not None
    assert view.world_from_camera is not None
    return token_positions(
        depth_m, view.K_depth, view.K_color, view.world_from_camera, *image_size, *cells
    )


def _previews(rgb: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    return np.stack([preview_of(image, grid) for image in rgb])


def preview_of(rgb: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the small picture of an image, uint8 [H, W, 3], that is kept: `PREVIEW_PX` a token."""
    size = (grid[0] * PREVIEW_PX, grid[1] * PREVIEW_PX)
    return resize(rgb, size, "box", (0.0, 0.0, float(rgb.shape[1]), float(rgb.shape[0])))
