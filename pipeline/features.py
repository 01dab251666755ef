"""One scene: from its source to pixels, from pixels to the arrays that the store keeps.

Memory is bounded whatever a scene holds: its pixels are held up to a limit (`scenes/pixels.py`),
and go through the encoder some views at a time. Letters: V views, n those of a part, H W the
images, gh gw the common token grid.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from PIL import Image

from vega3d.pipeline.backbones.backbone import Backbone, Pooled, check_view_ids
from vega3d.pipeline.backbones.grid import grid_cells
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.checking import check_one_size, diagnose_views
from vega3d.pipeline.scenes.conventions import as_meant
from vega3d.pipeline.scenes.decoding import DecodedView, SceneReport, decode_views
from vega3d.pipeline.scenes.diagnosis import Diagnosis, Reading
from vega3d.pipeline.scenes.geometry import TokenGeometry, token_positions
from vega3d.pipeline.scenes.pixels import HELD_BYTES
from vega3d.pipeline.scenes.scene import SceneSource, View
from vega3d.pipeline.store.layout import PREVIEW_PX
from vega3d.pipeline.store.scene_arrays import SceneArrays

PART_BYTES = 1 << 28
"""Decoded pixels of the views that go to the encoder in one call; one view may have more."""

PART_VIEWS = 16
"""... and as many views: an encoder's own tokens are larger than what is kept of them."""

MAX_JOINT_BYTES = 4 << 30
"""Images of a scene, and their copies at the encoder's size, where all views go in together."""

_BESIDE = 4
"""Threads for what needs no model: pooling on a CPU, where tokens are, previews."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """Some views of a scene with their pixels."""

    views: tuple[View, ...]
    rgb: np.ndarray
    """uint8 [n, H, W, 3]."""

    depth_m: tuple[np.ndarray | None, ...]


Ahead = Callable[[Iterator[Part]], Iterator[Part]]
"""Gives what an iterator gives; it may make the next part while this one is used."""


@dataclass(frozen=True, slots=True)
class DecodedScene:
    """The chosen views of a scene, decoded."""

    scene_id: str
    decoded: tuple[DecodedView, ...]
    content_sha256: str
    report: SceneReport
    geometry: Diagnosis
    """Whether depth agrees between neighbouring chosen views."""

    @property
    def view_ids(self) -> tuple[str, ...]:
        """Names of the views."""
        return tuple(one.view.view_id for one in self.decoded)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of every colour image, px."""
        return self.decoded[0].size

    def parts(self, num_views: int) -> Iterator[Part]:
        """Yield the views in order, so many at a time."""
        for start in range(0, len(self.decoded), num_views):
            some = self.decoded[start : start + num_views]
            rgb = np.empty((len(some), *self.image_size, 3), dtype=np.uint8)
            for one, out in zip(some, rgb, strict=True):
                out[:] = one.rgb
            yield Part(tuple(one.view for one in some), rgb, tuple(one.depth_m for one in some))


def decode_scene(source: SceneSource, scene_id: str, config: ExtractConfig) -> DecodedScene:
    """Read a scene, drop views without a pose and bad ones, choose views and decode them.

    Raises:
        SceneError: It cannot be read, no view is left, too many are bad, or images differ in size.
    """
    decoded, report = decode_views(
        as_meant(source.read(scene_id), poses=config.poses, depth_scale=config.depth_scale),
        num_views=config.num_views,
        sampling=config.sampling,
        policy=config.bad_views,
        held_bytes=HELD_BYTES,
    )
    check_one_size(scene_id, decoded)
    asked = Reading(poses=config.poses, depth_scale=config.depth_scale)
    geometry = diagnose_views(decoded, asked=asked)
    for line in (*report.lines(), *geometry.lines()):
        _log.warning("%s: %s", scene_id, line)
    return DecodedScene(scene_id, tuple(decoded), _content_sha256(decoded), report, geometry)


Known = dict[bytes, list[TokenGeometry]]
"""Where a scene's tokens lie, by the way in which an encoder divides its images."""


def encode_scene(
    scene: DecodedScene,
    backbone: Backbone,
    config: ExtractConfig,
    ahead: Ahead = iter,
    known: Known | None = None,
) -> SceneArrays:
    """Run the backbone on a decoded scene and bring everything to the common grid.

    Args:
        scene: From `decode_scene`.
        backbone: Sees the same views together, whatever the parts are.
        config: Says which grid.
        ahead: See `Ahead`.
        known: Where the scene's tokens lie, from other encoders; what is new is added.

    Raises:
        SceneError: The backbone sees all views at once, and they are more than memory is given.
    """
    return begin_scene(scene, backbone, config, ahead, known)()


def begin_scene(
    scene: DecodedScene,
    backbone: Backbone,
    config: ExtractConfig,
    ahead: Ahead = iter,
    known: Known | None = None,
) -> Callable[[], SceneArrays]:
    """Give a scene's views to the backbone, and return what hands over the result.

    The last views may still be on their way through it. What is returned holds no decoded pixels
    but theirs, and is to be called in the thread that began. See `encode_scene`.
    """
    check_view_ids(scene.view_ids, len(scene.decoded))
    taking = _Taking(scene, backbone, config, known)
    for part in ahead(scene.parts(_views_of_a_part(scene, backbone))):
        taking.begin(part, backbone)
    return taking.finish


class _Taking:
    """What becomes of a scene's views while and after they go through the backbone.

    One part is in the backbone and one is taken out of it. All that no model is needed for runs in
    other threads: the one that feeds the model waits for nothing but the model.
    """

    def __init__(
        self,
        scene: DecodedScene,
        backbone: Backbone,
        config: ExtractConfig,
        known: Known | None,
    ) -> None:
        self._grid, self._image_size = config.grid, scene.image_size
        token_map = backbone.token_map(*self._image_size)
        self._cells = grid_cells(token_map, *self._image_size, config.grid)
        shape = (len(scene.decoded), *config.grid, backbone.channels)
        self._features = {tap: np.empty(shape, dtype=np.float32) for tap in backbone.taps}
        self._known = {} if known is None else known
        self._division = np.concatenate(self._cells).tobytes()
        self._geometry = self._known.get(self._division, [])
        self._placing = not self._geometry
        self._coverage = np.empty(config.grid, dtype=np.float32)
        self._previews: list[np.ndarray] = []
        self._bare = _without_features(scene)
        self._begun: _Begun | None = None
        self._done = 0

    def begin(self, part: Part, backbone: Backbone) -> None:
        """Give views to the backbone, then take the ones before them."""
        ids = [view.view_id for view in part.views]
        place = partial(_geometry, image_size=self._image_size, cells=self._cells)
        preview = _beside().submit(_previews, part.rgb, self._grid)
        placed = [
            _beside().submit(place, view, depth)
            for view, depth in zip(part.views, part.depth_m, strict=True)
            if self._placing
        ]
        pooled = backbone.begin_pooled(
            part.rgb, self._grid, scene_id=self._bare.scene_id, view_ids=ids
        )
        before, self._begun = (
            self._begun,
            _Begun(len(ids), _beside().submit(pooled), placed, preview),
        )
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
        pooled, self._coverage = begun.pooled.result()
        for tap, values in pooled.items():
            self._features[tap][self._done : self._done + begun.count] = values
        self._geometry += [one.result() for one in begun.placed]
        self._previews.append(begun.preview.result())
        self._done += begun.count


@dataclass(frozen=True, slots=True)
class _Begun:
    """Views on their way."""

    count: int
    pooled: Future[Pooled]
    placed: list[Future[TokenGeometry]]
    preview: Future[np.ndarray]


@cache
def _beside() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_BESIDE, thread_name_prefix="beside")


def _without_features(scene: DecodedScene) -> SceneArrays:
    return SceneArrays(
        scene_id=scene.scene_id,
        features={},
        view_ids=scene.view_ids,
        world_from_camera=_cameras([one.view.world_from_camera for one in scene.decoded], 4),
        intrinsics=_cameras([one.view.K_color for one in scene.decoded], 3),
        image_size=np.tile(scene.image_size, (len(scene.decoded), 1)),
        content_sha256=scene.content_sha256,
        dropped_views=scene.report.dropped_views,
    )


def _views_of_a_part(scene: DecodedScene, backbone: Backbone) -> int:
    """Return how many views to hand over at a time: whole batches, so that no result changes."""
    count = len(scene.decoded)
    if backbone.views_at_once is None:
        _check_joint(scene, backbone)
        return count
    fitting = PART_BYTES // max(one.num_bytes for one in scene.decoded)
    batch = backbone.views_at_once
    return max(1, min(PART_VIEWS, fitting) // batch) * batch


def _check_joint(scene: DecodedScene, backbone: Backbone) -> None:
    height, width = scene.image_size
    rows, cols = backbone.canvas(height, width)
    # On the canvas once as bytes and once as float32.
    needed = len(scene.decoded) * 3 * (height * width + rows * cols * 5)
    if needed > MAX_JOINT_BYTES:
        raise SceneError(
            f"{scene.scene_id}: all {len(scene.decoded)} views of {width}x{height} go into this "
            f"encoder together and take {needed / 2**30:.1f} GiB, more than the "
            f"{MAX_JOINT_BYTES >> 30} that they may; take fewer --views, a --context that sees "
            "each view alone where the encoder has one, or smaller images"
        )


def _geometry(
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
    size = (grid[1] * PREVIEW_PX, grid[0] * PREVIEW_PX)
    pictures = [Image.fromarray(image).resize(size, Image.Resampling.BOX) for image in rgb]
    return np.stack([np.asarray(picture) for picture in pictures])


def _cameras(matrices: Sequence[np.ndarray | None], size: int) -> np.ndarray:
    unknown = np.full((size, size), np.nan)
    return np.stack([unknown if m is None else np.asarray(m, np.float64) for m in matrices])


def _content_sha256(decoded: Sequence[DecodedView]) -> str:
    """Hash what the features come from: ids, decoded pixels, depths and cameras."""
    digest = hashlib.sha256()

    def update(name: str, values: np.ndarray | None) -> None:
        shape = None if values is None else (values.dtype.str, values.shape)
        digest.update(f"{name}{shape}".encode())
        if values is not None:
            digest.update(np.ascontiguousarray(values).data)

    for one in decoded:
        view = one.view
        update(f"view {len(view.view_id)} {view.view_id}", one.rgb)
        update("depth", one.depth_m)
        for name in ("K_color", "K_depth", "world_from_camera"):
            camera = getattr(view, name)
            update(name, None if camera is None else np.asarray(camera, dtype=np.float64))
    return digest.hexdigest()
