"""Per-scene caches that others have released, brought into a store of the same contract.

What the released VEGA-3D code leaves of SEVA and Vmem is one file a scene, [V, C, h, w] and nothing
else: no name of a view, no pose, no position. So the views must be named, and where the captures
are at hand the positions are measured from them, and tokens of a centre crop are brought to the
grid over the whole image that all stores share. Letters: V views, C channels, h w cached tokens.

Source of the layout: H-EmbodVis/VEGA-3D @ 9c96924, llava/video_utils.py (get_generative_features)
and scripts/3d/preprocessing/extract_seva_vmem_offline_step1_features.py.
"""

import json
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from safetensors import SafetensorError

from vega3d.pipeline.backbones.grid import TokenMap, plan_placement, pool_to_grid
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import CacheConfig, ExtractConfig
from vega3d.pipeline.errors import SceneError, UsageError
from vega3d.pipeline.features import decode_scene, encode_scene
from vega3d.pipeline.imports import prepared
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, SceneSource
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.store.identity import FORMAT_VERSION
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.scene_arrays import SceneArrays, SceneFailure
from vega3d.pipeline.store.store import Store
from vega3d.pipeline.store.writer import uncommitted
from vega3d.pipeline.texts import fixed_text, safe

KINDS = (".pt", ".pth", ".npy", ".safetensors")
UNIFORM = "uniform"
"""Views named as the released code samples them, where no file names them."""

_UNREADABLE = (OSError, ValueError, TypeError, RuntimeError, EOFError, KeyError, IndexError,
               pickle.UnpicklingError, SafetensorError)  # fmt: skip
"""What torch, numpy and safetensors raise where a file is damaged or holds something else."""

_PATCH = 16
"""Any side of a cached token will do: its place follows from the grid's aspect alone."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """One scene's file."""

    path: Path
    scene_id: str
    view_ids: tuple[str, ...]
    """Of each view in the file, in its order."""


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
        caches: From `find_caches`.
        config: How images reached the cached tokens, and what they are called.
        source: What made the features: a name that is part of the store's config.
        captures: Of the same scenes, for positions, cameras and previews; None leaves them out.
        scenes_per_shard: Scenes of one file.
        store_dtype: float16 or float32.

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
    writer = create_or_resume(out, plan, identity, asdict(Numerics()))
    by_id = {one.scene_id: one for one in caches}
    for unit in uncommitted(writer, plan):
        scenes = [_read(by_id[name], shape, config, captures) for name in unit.scene_ids]
        writer.write_unit(unit, scenes, {})
    merge_commits(writer)
    return Store.open(out)


def find_caches(
    files: Sequence[Path], view_ids: str, captures: SceneSource | None, *, cond_half: bool = False
) -> list[Cache]:
    """Return the caches in some files and folders, each with its scene and the names of its views.

    A file is a scene by its own name, or by its folder's where all have one name (`seva.pt`).

    Args:
        files: Files, or folders of files or of folders with one file each.
        view_ids: A JSON file, scene -> names in the order of the cache; or `uniform`: those that
            `np.linspace(0, n - 1, V)` takes of the n views that the capture lists.
        captures: Of the same scenes.
        cond_half: See `read_cache`.

    Raises:
        UsageError: There is no file, a scene is not named, or nobody says what its views are.
    """
    known = {} if captures is None else _scene_ids(captures)
    named = _by_scene(files, known)
    if captures is not None and (lost := sorted(named.keys() - known.keys())):
        raise UsageError(f"--scenes has no {', '.join(lost[:3])} ({len(lost)} in all)")
    if not view_ids:
        raise UsageError(
            "released caches do not say which views they hold: give --view-ids, a JSON file "
            '{"scene0000_00": ["00000", "00010", ...]}, or `uniform` with --scenes'
        )
    if view_ids == UNIFORM:
        if captures is None:
            raise UsageError("--view-ids uniform needs --scenes, whose views are counted")
        counts = {name: len(read_cache(path, cond_half=cond_half)) for name, path in named.items()}
        ids = {name: _uniform(captures, known[name], count) for name, count in counts.items()}
    else:
        ids = _named_views(Path(view_ids), named)
    return [
        Cache(path=path, scene_id=known.get(name, name), view_ids=ids[name])
        for name, path in sorted(named.items())
    ]


def _by_scene(files: Sequence[Path], known: Mapping[str, str]) -> dict[str, Path]:
    """Return each scene's file, by the file's name or by its folder's."""
    paths = list(_files(files))
    if not paths:
        asked = ", ".join(map(str, files))
        raise UsageError(f"no file of the kinds {', '.join(KINDS)} among {asked}")
    repeated = len({path.stem for path in paths}) < len(paths)
    by_folder = repeated or (bool(known) and not any(path.stem in known for path in paths))
    named = {(path.parent.name if by_folder else path.stem): path for path in paths}
    if len(named) < len(paths):
        raise UsageError(f"{len(paths)} files name {len(named)} scenes; import one cache a scene")
    return named


def read_cache(path: Path, *, cond_half: bool = False) -> Float32[np.ndarray, "V C h w"]:
    """Return a cache's features.

    Args:
        path: A tensor in .pt (nothing but tensors is unpickled), an array in .npy, or a
            .safetensors with one tensor.
        cond_half: Keep the second half along the first axis, which older caches have after the
            unconditional one.

    Raises:
        SceneError: It holds something else.
    """
    try:
        found = _tensor(path)
    except _UNREADABLE as error:
        raise SceneError(f"{path.name} cannot be read ({type(error).__name__})") from error
    if found.ndim != 4 or not torch.is_floating_point(found) or 0 in found.shape:
        raise SceneError(
            f"{path.name} must hold features [V, C, h, w], found {found.dtype} {list(found.shape)}"
        )
    if cond_half:
        if len(found) % 2:
            raise SceneError(f"{path.name} has {len(found)} rows, which are no two halves")
        found = found[len(found) // 2 :]
    return np.asarray(found.float().numpy())


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

    def encode_pooled(
        self,
        rgb: UInt8[np.ndarray, "V H W 3"],
        grid: tuple[int, int],
        *,
        scene_id: str,
        view_ids: Sequence[str],
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        del scene_id
        tokens = np.stack([self._by_view[name] for name in view_ids])
        height, width = rgb.shape[1:3]
        looks = self.token_map(height, width)
        pooled, coverage = pool_to_grid(tokens, looks, height, width, grid)
        return {self.taps[0]: pooled}, coverage


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
            return prepared(
                SceneArrays(scene_id=cache.scene_id, features=tokens, view_ids=tuple(names))
            )
        settings = ExtractConfig(grid=(shape[1], shape[2]), num_views=0, bad_views="fail")
        decoded = decode_scene(_Chosen(captures, cache.view_ids), cache.scene_id, settings)
        encoder = _Cached(features, cache.view_ids, config)
        return prepared(encode_scene(decoded, encoder, settings))
    except SceneError as error:
        _log.warning("%s: %s", cache.scene_id, error)
        return SceneFailure(cache.scene_id, fixed_text(str(error), (str(cache.path.parent),)))


def _tensor(path: Path) -> torch.Tensor:
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        (found,) = load_file(path).values()
        return found
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Mapping):
        (loaded,) = loaded.values()
    if not isinstance(loaded, torch.Tensor):
        raise TypeError(f"no tensor: {type(loaded).__name__}")
    return loaded


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
    """Return the config of imported features: nothing of how they were made but a name."""
    found = {
        "backbone": "imported",
        "source": source,
        "model": source,
        "grid": list(shape[1:]),
        "store_dtype": store_dtype,
        **({"cached_fit": config.cached_fit} if placed else {}),
        **({"cond_half": True} if config.cond_half else {}),
    }
    taps = {"taps": [config.tap], "channels": shape[0]}
    return {"format": FORMAT_VERSION, "config": found, **taps}


def _files(files: Sequence[Path]) -> Iterator[Path]:
    for path in files:
        if path.is_dir():
            found = [*path.glob("*"), *path.glob("*/*")]
            yield from sorted(one for one in found if one.suffix in KINDS and one.is_file())
        else:
            yield path


def _scene_ids(captures: SceneSource) -> dict[str, str]:
    """Return each scene's id by itself and by its last part (`scannet/scene0000_00`)."""
    ids = [entry.scene_id for entry in captures.entries()]
    return {**{name.rpartition("/")[2]: name for name in ids}, **{name: name for name in ids}}


def _uniform(captures: SceneSource, scene_id: str, count: int) -> tuple[str, ...]:
    """Return the views that the released code takes; one of few views comes more than once."""
    names = [view.view_id for view in captures.read(scene_id).views]
    return tuple(names[i] for i in np.linspace(0, len(names) - 1, count, dtype=int))


def _named_views(path: Path, named: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    try:
        held = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--view-ids {path}: {error}") from error
    found = {}
    for name in named:
        ids = held.get(name) if isinstance(held, dict) else None
        if not isinstance(ids, list) or not ids or not all(isinstance(one, str) for one in ids):
            raise UsageError(f"--view-ids {path} must give {name} a list of names, found {ids!r}")
        found[name] = tuple(ids)
    return found


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
