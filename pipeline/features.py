"""One scene: from its source to pixels, from pixels to the arrays that the store keeps.

Letters: V views, H W the images, gh gw the common token grid.
"""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.grid import grid_cells
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.scenes.checking import check_one_size, diagnose_views
from vega3d.pipeline.scenes.conventions import as_meant
from vega3d.pipeline.scenes.decoding import SceneReport, decode_views
from vega3d.pipeline.scenes.diagnosis import Diagnosis, Reading
from vega3d.pipeline.scenes.geometry import TokenGeometry, token_positions
from vega3d.pipeline.scenes.scene import SceneSource, View
from vega3d.pipeline.store.layout import PREVIEW_PX
from vega3d.pipeline.store.scene_arrays import SceneArrays

_BESIDE = 4
"""Threads that work out where a scene's tokens are while the model runs."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DecodedScene:
    """The chosen views of a scene, decoded."""

    scene_id: str
    views: tuple[View, ...]
    rgb: np.ndarray
    """uint8 [V, H, W, 3]."""

    depth_m: tuple[np.ndarray | None, ...]
    content_sha256: str
    report: SceneReport
    geometry: Diagnosis
    """Whether depth agrees between neighbouring chosen views."""


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
    )
    check_one_size(scene_id, decoded)
    asked = Reading(poses=config.poses, depth_scale=config.depth_scale)
    geometry = diagnose_views(decoded, asked=asked)
    for line in (*report.lines(), *geometry.lines()):
        _log.warning("%s: %s", scene_id, line)
    views = tuple(one.view for one in decoded)
    rgb = [one.rgb for one in decoded]
    depth_m = tuple(one.depth_m for one in decoded)
    digest = _content_sha256(views, rgb, depth_m)
    return DecodedScene(scene_id, views, np.stack(rgb), depth_m, digest, report, geometry)


def encode_scene(scene: DecodedScene, backbone: Backbone, config: ExtractConfig) -> SceneArrays:
    """Run the backbone on a decoded scene and bring everything to the common grid."""
    count, height, width = scene.rgb.shape[:3]
    view_ids = [view.view_id for view in scene.views]
    cells = grid_cells(backbone.token_map(height, width), height, width, config.grid)
    with ThreadPoolExecutor(_BESIDE) as beside:  # a GPU need not wait for the cameras' arithmetic
        found = [
            beside.submit(_geometry, view, depth, (height, width), *cells)
            for view, depth in zip(scene.views, scene.depth_m, strict=True)
        ]
        preview = beside.submit(_previews, scene.rgb, config.grid)
        features, coverage = backbone.encode_pooled(
            scene.rgb, config.grid, scene_id=scene.scene_id, view_ids=view_ids
        )
        geometry = [one.result() for one in found]
    return SceneArrays(
        scene_id=scene.scene_id,
        features=features,
        view_ids=tuple(view_ids),
        world_xyz=np.stack([view.world_xyz for view in geometry]),
        center_xyz=np.stack([view.center_xyz for view in geometry]),
        depth_share=np.stack([view.depth_share for view in geometry]),
        coverage=np.broadcast_to(coverage, (count, *config.grid)),
        preview=preview.result(),
        world_from_camera=_cameras([view.world_from_camera for view in scene.views], 4),
        intrinsics=_cameras([view.K_color for view in scene.views], 3),
        image_size=np.tile([height, width], (count, 1)),
        content_sha256=scene.content_sha256,
        dropped_views=scene.report.dropped_views,
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
    size = (grid[1] * PREVIEW_PX, grid[0] * PREVIEW_PX)
    pictures = [Image.fromarray(image).resize(size, Image.Resampling.BOX) for image in rgb]
    return np.stack([np.asarray(picture) for picture in pictures])


def _cameras(matrices: Sequence[np.ndarray | None], size: int) -> np.ndarray:
    unknown = np.full((size, size), np.nan)
    return np.stack([unknown if m is None else np.asarray(m, np.float64) for m in matrices])


def _content_sha256(
    views: Sequence[View], rgb: Sequence[np.ndarray], depth_m: Sequence[np.ndarray | None]
) -> str:
    """Hash what the features come from: ids, decoded pixels, depths and cameras."""
    digest = hashlib.sha256()

    def update(name: str, values: np.ndarray | None) -> None:
        shape = None if values is None else (values.dtype.str, values.shape)
        digest.update(f"{name}{shape}".encode())
        if values is not None:
            digest.update(np.ascontiguousarray(values).data)

    for view, image, depth in zip(views, rgb, depth_m, strict=True):
        update(f"view {len(view.view_id)} {view.view_id}", image)
        update("depth", depth)
        for name in ("K_color", "K_depth", "world_from_camera"):
            camera = getattr(view, name)
            update(name, None if camera is None else np.asarray(camera, dtype=np.float64))
    return digest.hexdigest()
