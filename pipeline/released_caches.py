"""Per-scene caches that others have released, brought into a store of the same contract.

What the released VEGA-3D code leaves of SEVA and Vmem is one file a scene, [V, C, h, w] and nothing
else: no name of a view, no pose, no position. So the views must be named, and where the captures
are at hand the positions are measured from them, and tokens of a centre crop are brought to the
grid over the whole image that all stores share. Letters: V views, C channels, h w cached tokens.

Source of the layout: H-EmbodVis/VEGA-3D @ 9c96924, llava/video_utils.py (get_generative_features)
and scripts/3d/preprocessing/extract_seva_vmem_offline_step1_features.py.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vega3d.pipeline.backbones.backbone import Pooled
from vega3d.pipeline.backbones.grid import TokenMap, plan_placement, pool_to_grid
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import CacheConfig, ExtractConfig
from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.features import decode_scene, encode_scene
from vega3d.pipeline.imports import imported_identity, ready_to_store
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.released_files import Cache, read_cache
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, SceneSource
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.scene_arrays import SceneArrays, SceneFailure
from vega3d.pipeline.store.store import Store
from vega3d.pipeline.store.writer import uncommitted
from vega3d.pipeline.texts import fixed_text, safe

_PATCH = 16
"""Any side of a cached token will do: its place follows from the grid's aspect alone."""

_log = logging.getLogger(__name__)


def import_caches(
    out: str,
    caches: Sequence[Cache],
    config: CacheConfig,
    *,
    source: str,
    captures: SceneSource | None,
    scenes_per_shard: int = 1,
    store_dtype: str = "float16",
) -> Store:
    """Write released caches to a store; a scene that does not fit is recorded with its reason.

    Args:
        out: Folder or URL.
        caches: From `released_files.find_caches`.
        config: How images reached the cached tokens, and what they are called.
        source: What made the features: a name that is part of the store's config.
        captures: Of the same scenes, for positions, cameras and previews; None leaves them out.
        scenes_per_shard: Scenes of one file.
        store_dtype: float16, float32 or int8.

    Raises:
        SceneError: No file can be read.
        StoreError: There is a store of another config, or a value does not fit.
    """
    shape = _first_shape(caches, config)
    identity = _identity(shape, config, safe(source), captures is not None, store_dtype)
    entries = [
        SceneEntry(scene_id=one.scene_id, num_views=len(_unique(one.view_ids)), size_bytes=0)
        for one in caches
    ]
    plan = plan_units(entries, num_views=0, scenes_per_shard=scenes_per_shard)
    writer = create_or_resume(out, plan, identity, Numerics().stored())
    by_id = {one.scene_id: one for one in caches}
    for unit in uncommitted(writer, plan):
        scenes = [_read(by_id[name], shape, config, captures) for name in unit.scene_ids]
        writer.write_unit(unit, scenes, {})
    merge_commits(writer)
    return Store.open(out)


class _Cached:
    """A scene's cached features where an encoder is expected: they are looked up by view."""

    views_at_once = 1

    def __init__(
        self, features: Float32[np.ndarray, "V C h w"], view_ids: Sequence[str], config: CacheConfig
    ) -> None:
        self._by_view = {
            name: np.ascontiguousarray(one.transpose(1, 2, 0))
            for name, one in reversed(list(zip(view_ids, features, strict=True)))
        }
        self.taps, self.channels = (config.tap,), features.shape[1]
        self._grid, self._config = features.shape[2:], config

    def canvas(self, image_height: int, image_width: int) -> tuple[int, int]:
        del image_height, image_width
        return self._grid[0] * _PATCH, self._grid[1] * _PATCH

    def token_map(self, image_height: int, image_width: int) -> TokenMap:
        canvas = self.canvas(image_height, image_width)
        placement = plan_placement(image_height, image_width, canvas, self._config.cached_fit)
        return placement.token_map(_PATCH)

    def begin_pooled(
        self,
        rgb: UInt8[np.ndarray, "V H W 3"],
        grid: tuple[int, int],
        *,
        scene_id: str,
        view_ids: Sequence[str],
    ) -> Callable[[], Pooled]:
        del scene_id
        tokens = np.stack([self._by_view[name] for name in view_ids])
        height, width = rgb.shape[1:3]
        looks = self.token_map(height, width)
        pooled, coverage = pool_to_grid(tokens, looks, height, width, grid)
        return lambda: ({self.taps[0]: pooled}, coverage)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A source of which some views are read, in an order of their own."""

    source: SceneSource
    view_ids: Sequence[str]

    def entries(self) -> Sequence[SceneEntry]:
        return self.source.entries()

    def read(self, scene_id: str) -> Scene:
        scene = self.source.read(scene_id)
        views = {view.view_id: view for view in scene.views}
        if lost := [name for name in self.view_ids if name not in views]:
            raise SceneError(f"{scene_id}: the capture has no view {', '.join(lost[:3])}")
        return replace(scene, views=tuple(views[name] for name in _unique(self.view_ids)))


def _read(
    cache: Cache, shape: tuple[int, int, int], config: CacheConfig, captures: SceneSource | None
) -> SceneArrays | SceneFailure:
    """Return a scene's arrays, or why there are none."""
    try:
        features = read_cache(cache.path, cond_half=config.cond_half)
        if len(features) != len(cache.view_ids) or features.shape[1:] != shape:
            raise SceneError(
                f"{cache.scene_id}: {cache.path.name} holds {list(features.shape)}; "
                f"{len(cache.view_ids)} views are named, and the first file has [V, "
                f"{', '.join(map(str, shape))}]"
            )
        if captures is None:
            names = _unique(cache.view_ids)
            kept = [cache.view_ids.index(name) for name in names]
            tokens = {config.tap: features[kept].transpose(0, 2, 3, 1)}
            return ready_to_store(
                SceneArrays(scene_id=cache.scene_id, features=tokens, view_ids=tuple(names))
            )
        settings = ExtractConfig(grid=(shape[1], shape[2]), num_views=0, bad_views="fail")
        decoded = decode_scene(_Chosen(captures, cache.view_ids), cache.scene_id, settings)
        encoder = _Cached(features, cache.view_ids, config)
        return ready_to_store(encode_scene(decoded, encoder, settings))
    except SceneError as error:
        _log.warning("%s: %s", cache.scene_id, error)
        return SceneFailure(cache.scene_id, fixed_text(str(error), (str(cache.path.parent),)))


def _first_shape(caches: Sequence[Cache], config: CacheConfig) -> tuple[int, int, int]:
    """Return channels, rows and columns of the first file that can be read."""
    told = ""
    for cache in caches:
        try:
            _, *shape = read_cache(cache.path, cond_half=config.cond_half).shape
        except SceneError as error:
            told = told or str(error)
        else:
            return shape[0], shape[1], shape[2]
    raise SceneError(f"no cache can be read: {told}")


def _identity(
    shape: tuple[int, int, int], config: CacheConfig, source: str, placed: bool, store_dtype: str
) -> dict[str, Any]:
    channels, rows, cols = shape
    more: dict[str, Any] = {"cached_fit": config.cached_fit} if placed else {}
    if config.cond_half:
        more["cond_half"] = True
    return imported_identity(source, [config.tap], (rows, cols, channels), store_dtype, **more)


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
