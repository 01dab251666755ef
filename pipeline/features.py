"""One scene: from its source to pixels, from pixels to the arrays that the store keeps.

Memory is bounded whatever a scene holds: its pixels are held up to a limit (`scenes/pixels.py`),
and go through the encoder some views at a time. Letters: V views, n those of a part, H W the
images, gh gw the common token grid.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from vega3d.pipeline.backbones.backbone import check_view_ids
from vega3d.pipeline.backbones.grid import TokenMap, grid_cells
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
from vega3d.pipeline.store.notes import SceneNote
from vega3d.pipeline.store.scene_arrays import SceneArrays
from vega3d.pipeline.texts import safe

PART_BYTES = 1 << 28
"""Decoded pixels of the views that go to the encoder in one call; one view may have more."""

PART_VIEWS = 16
"""... and as many views: an encoder's own tokens are larger than what is kept of them."""

MAX_JOINT_BYTES = 4 << 30
"""Images of a scene, and their copies at the encoder's size, where all views go in together."""

_BESIDE = 4
"""Threads that work out where a scene's tokens are while the model runs."""


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

    def note(self, source: Mapping[str, str]) -> SceneNote:
        """Return what reading it showed, for who comes later.

        Args:
            source: How its files looked just before.
        """
        misread = self.geometry.lines()
        return SceneNote(
            content_sha256=self.content_sha256,
            source=source,
            views_with_depth=self.report.with_depth,
            views_with_pose=self.report.with_pose,
            reprojection_m=self.geometry.error_m,
            misread=tuple(map(safe, misread)),
            remarks=tuple(map(safe, [*self.report.lines(), *misread])),
        )

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
    return DecodedScene(scene_id, tuple(decoded), _content_sha256(decoded), report, geometry)


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

    def encode_pooled(
        self, rgb: np.ndarray, grid: tuple[int, int], *, scene_id: str, view_ids: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return each tap's features on the common grid, and the share of each cell seen."""
        ...


Known = dict[bytes, list[TokenGeometry]]
"""Where a scene's tokens lie, by the way in which an encoder divides its images."""


def encode_scene(
    scene: DecodedScene,
    backbone: Encodes,
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
    count, (height, width) = len(scene.decoded), scene.image_size
    check_view_ids(scene.view_ids, count)
    token_map = backbone.token_map(height, width)
    row_cells, col_cells = grid_cells(token_map, height, width, config.grid)
    features = {
        tap: np.empty((count, *config.grid, backbone.channels), dtype=np.float32)
        for tap in backbone.taps
    }
    coverage = np.empty(config.grid, dtype=np.float32)
    known = {} if known is None else known
    division = np.concatenate([row_cells, col_cells]).tobytes()
    geometry = known.get(division, [])
    placing = not geometry
    previews: list[np.ndarray] = []
    done = 0
    with ThreadPoolExecutor(_BESIDE) as beside:  # a GPU need not wait for the cameras' arithmetic
        for part in ahead(scene.parts(_views_of_a_part(scene, backbone))):
            ids = [view.view_id for view in part.views]
            preview = beside.submit(_previews, part.rgb, config.grid)
            placed = [
                beside.submit(_geometry, view, depth, (height, width), row_cells, col_cells)
                for view, depth in zip(part.views, part.depth_m, strict=True)
                if placing
            ]
            pooled, coverage = backbone.encode_pooled(
                part.rgb, config.grid, scene_id=scene.scene_id, view_ids=ids
            )
            for tap, values in pooled.items():
                features[tap][done : done + len(ids)] = values
            geometry += [one.result() for one in placed]
            done += len(ids)
            previews.append(preview.result())
    known[division] = geometry
    return _scene_arrays(scene, features, coverage, geometry, np.concatenate(previews))


def _scene_arrays(
    scene: DecodedScene,
    features: dict[str, np.ndarray],
    coverage: np.ndarray,
    geometry: list[TokenGeometry],
    preview: np.ndarray,
) -> SceneArrays:
    count = len(scene.decoded)
    return SceneArrays(
        scene_id=scene.scene_id,
        features=features,
        view_ids=scene.view_ids,
        world_xyz=np.stack([view.world_xyz for view in geometry]),
        center_xyz=np.stack([view.center_xyz for view in geometry]),
        depth_share=np.stack([view.depth_share for view in geometry]),
        coverage=np.broadcast_to(coverage, (count, *coverage.shape)),
        preview=preview,
        world_from_camera=_cameras([one.view.world_from_camera for one in scene.decoded], 4),
        intrinsics=_cameras([one.view.K_color for one in scene.decoded], 3),
        image_size=np.tile(scene.image_size, (count, 1)),
        content_sha256=scene.content_sha256,
        dropped_views=scene.report.dropped_views,
        repeated_views=len(scene.report.repeated_views),
    )


def _views_of_a_part(scene: DecodedScene, backbone: Encodes) -> int:
    """Return how many views to hand over at a time: whole batches, so that no result changes."""
    count = len(scene.decoded)
    if backbone.views_at_once is None:
        _check_joint(scene, backbone)
        return count
    fitting = PART_BYTES // max(one.num_bytes for one in scene.decoded)
    batch = backbone.views_at_once
    return max(1, min(PART_VIEWS, fitting) // batch) * batch


def _check_joint(scene: DecodedScene, backbone: Encodes) -> None:
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
    image_size: tuple[int, int],
    row_cells: np.ndarray,
    col_cells: np.ndarray,
) -> TokenGeometry:
    known = (view.K_depth, view.K_color, view.world_from_camera)
    if depth_m is None or any(camera is None for camera in known):
        cells = (len(row_cells), len(col_cells))
        nowhere = np.full((*cells, 3), np.nan, dtype=np.float32)
        share = np.full(cells, np.nan, dtype=np.float32)
        return TokenGeometry(world_xyz=nowhere, center_xyz=nowhere, depth_share=share)
    assert view.K_depth is not None  # for mypy: checked above
    assert view.K_color is not None
    assert view.world_from_camera is not None
    return token_positions(
        depth_m,
        view.K_depth,
        view.K_color,
        view.world_from_camera,
        image_size[0],
        image_size[1],
        row_cells,
        col_cells,
    )


def _previews(rgb: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    return np.stack([preview_of(image, grid) for image in rgb])


def preview_of(rgb: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the small picture of an image, uint8 [H, W, 3], that is kept: `PREVIEW_PX` a token."""
    size = (grid[1] * PREVIEW_PX, grid[0] * PREVIEW_PX)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))


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
