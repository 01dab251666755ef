"""Features that somebody else computed, brought into a store of the same contract.

`import_arrays` takes arrays; the command `vega3d-extract import` takes safetensors files, one a
scene, whose tensors carry the names of `SceneArrays`' fields and `features.<tap>`, and whose
metadata holds `view_ids`, a JSON list of names.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.errors import SceneError, StoreError
from vega3d.pipeline.local_files import check_fetched
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.scenes.scene import SceneEntry
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.store.identity import FORMAT_VERSION, sha256_of
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.scene_arrays import SceneArrays as SceneArrays
from vega3d.pipeline.store.scene_arrays import (
    check_view_ids,
    check_whole_numbers,
    seen_tokens,
    without_unseen,
)
from vega3d.pipeline.store.store import Store
from vega3d.pipeline.store.writer import uncommitted
from vega3d.pipeline.texts import safe

_log = logging.getLogger(__name__)
_BESIDE = (
    "world_xyz", "center_xyz", "depth_share", "coverage", "preview", "world_from_camera",
    "intrinsics", "image_size",
)  # fmt: skip


def import_arrays(
    out: str,
    scenes: Sequence[SceneArrays],
    *,
    model: str,
    scenes_per_shard: int = 1,
    store_dtype: str = "float16",
) -> Store:
    """Write features that were computed elsewhere to a new store at `out`.

    Args:
        out: Folder or URL.
        scenes: At least one; all with the same taps, grid and channels.
        model: What made the features: a name that is part of the store's config; a password or a
            query in it is not kept.
        scenes_per_shard: Scenes of one file.
        store_dtype: float16, float32 or int8.

    Raises:
        SceneError: The scenes differ in taps, grid or channels, an array has another shape than
            `SceneArrays` says, its views are not named, or class ids do not fit the stored type.
        StoreError: There is a store of another config, or a value does not fit.
    """
    identity = _identity(scenes, safe(model), store_dtype)
    for scene in scenes:
        _check_beside(scene)
        _check_whole_numbers(scene, store_dtype)
    entries = [
        SceneEntry(scene_id=scene.scene_id, num_views=_num_views(scene), size_bytes=0)
        for scene in scenes
    ]
    plan = plan_units(entries, num_views=0, scenes_per_shard=scenes_per_shard)
    writer = create_or_resume(out, plan, identity, Numerics().stored())
    by_id = {scene.scene_id: ready_to_store(scene) for scene in scenes}
    for unit in uncommitted(writer, plan):
        writer.write_unit(unit, [by_id[scene_id] for scene_id in unit.scene_ids], {})
    merge_commits(writer)
    store = Store.open(out)
    for scene_id in store.scene_ids:
        if store.content_sha256(scene_id) != by_id[scene_id].content_sha256:
            raise StoreError(
                f"{out} holds other features, positions, cameras or views of {scene_id} already; "
                "import into a new store"
            )
    return store


def ready_to_store(scene: SceneArrays) -> SceneArrays:
    """Return a scene of others as it is stored: places that are none as NaN, and a hash of all."""
    return _with_hash(without_unseen(_without_origin(scene)))


def _without_origin(scene: SceneArrays) -> SceneArrays:
    """Return the scene with NaN for positions of exactly (0, 0, 0): others write that for none.

    A real token lies there with no probability; taken as places, those of all views would fall into
    one voxel.
    """
    places = {name: getattr(scene, name) for name in ("world_xyz", "center_xyz")}
    changed: dict[str, Any] = {}
    for name, xyz in places.items():
        is_none = np.zeros(0, dtype=bool) if xyz is None else (np.asarray(xyz) == 0).all(axis=-1)
        if is_none.any():
            _log.warning(
                "%s: %d of %d positions in %s are (0, 0, 0), taken as none; NaN says so",
                scene.scene_id, is_none.sum(), is_none.size, name,
            )  # fmt: skip
            changed[name] = np.where(is_none[..., None], np.float32(np.nan), xyz)
    if "world_xyz" in changed and scene.depth_share is not None:
        is_none = np.isnan(changed["world_xyz"]).any(axis=-1)
        changed["depth_share"] = np.where(is_none, np.float32(0), scene.depth_share)
    return replace(scene, **changed)


def _with_hash(scene: SceneArrays) -> SceneArrays:
    """Return the scene with a hash of all that is stored of it, places and cameras included."""
    beside = {name: getattr(scene, name) for name in _BESIDE}
    arrays = {**scene.features, **{name: a for name, a in beside.items() if a is not None}}
    parts: list[bytes | memoryview] = [scene.content_sha256.encode()]
    parts += [json.dumps(list(scene.view_ids)).encode()]
    for name, values in sorted(arrays.items()):
        array = np.ascontiguousarray(values)
        parts += [json.dumps([name, array.dtype.str, array.shape]).encode(), array.data]
    return replace(scene, content_sha256=sha256_of(parts))


def holds_named_arrays(path: Path) -> bool:
    """Say whether a file is one for `read_scene_arrays`: its tensors are named features.<tap>."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors" or path.is_dir():
        return False
    try:
        with safe_open(path, framework="numpy") as opened:
            return any(name.startswith("features.") for name in opened.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return True  # whoever reads it says what is wrong


def read_scene_arrays(path: str) -> SceneArrays:
    """Read one scene from a safetensors file; its name without the ending is the scene's id.

    Raises:
        SceneError: The file cannot be read, holds a tensor of a name that is not known, no
            features, or no view ids: numbered ones would match the views of any other store.
    """
    tensors, metadata = _read_tensors(path)
    names = {field.name for field in fields(SceneArrays)} - {"scene_id", "features", "view_ids"}
    features: dict[str, np.ndarray] = {}
    others: dict[str, Any] = {}
    for name, values in tensors.items():
        if name.startswith("features."):
            whole = values.dtype.kind in "iu"  # float32 would round large ones before any check
            dtype = np.float64 if whole else np.float32
            features[name.removeprefix("features.")] = values.astype(dtype)
        elif name in names:
            others[name] = values
        else:
            raise SceneError(
                f"{path}: unknown tensor {name!r}; known are features.<tap> and {sorted(names)}"
            )
    if not features:
        raise SceneError(f"{path}: no tensor named features.<tap>")
    view_ids = _view_ids(path, metadata.get("view_ids", ""))
    return SceneArrays(scene_id=Path(path).stem, features=features, view_ids=view_ids, **others)


def _read_tensors(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return a file's tensors, those that numpy has no type for as float32, and its metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        check_fetched(path)
        with safe_open(path, framework="pt") as opened:  # numpy has no bfloat16 and no float8
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = dict(opened.metadata() or {})
    except (OSError, SafetensorError, AttributeError, TypeError) as error:
        raise SceneError(
            f"{path}: is no safetensors file that can be read ({error}); fetch or write it again"
        ) from error
    known = {
        name: tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
        for name, tensor in found.items()
    }
    return {name: tensor.numpy() for name, tensor in known.items()}, metadata


def _view_ids(path: str, text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text) if text else None
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise SceneError(
            f"{path}: the file's metadata must name its views, as other stores name them, for "
            "tokens to be compared view by view: "
            'save_file(tensors, path, metadata={"view_ids": json.dumps(["00000", "00010", ...])})'
        )
    return tuple(found)


def _identity(scenes: Sequence[SceneArrays], model: str, store_dtype: str) -> dict[str, Any]:
    """Return the identity of imported scenes, which must be alike."""
    shapes = {
        scene.scene_id: {tap: list(values.shape[1:]) for tap, values in scene.features.items()}
        for scene in scenes
    }
    first, expected = next(iter(shapes.items()), ("", {}))
    if not expected:
        raise SceneError("there is nothing to import: no scene, or a scene without features")
    for scene_id, shape in shapes.items():
        if shape != expected:
            raise SceneError(
                f"{scene_id} has taps and shapes {shape}, {first} has {expected}; "
                "all scenes of a store have the same taps, grid and channels"
            )
    if len({tuple(shape) for shape in expected.values()}) > 1:
        raise SceneError(f"{first}: all taps must have one shape, got {expected}")
    return imported_identity(model, tuple(expected), next(iter(expected.values())), store_dtype)


def imported_identity(
    source: str,
    taps: Sequence[str],
    shape: Sequence[int],
    store_dtype: str,
    **more: Any,  # noqa: ANN401 - any JSON
) -> dict[str, Any]:
    """Return the identity of a store of imported features.

    Args:
        source: Where they come from, as a person calls it.
        taps: Names of the feature arrays.
        shape: Of a view's features: rows, columns, channels.
        store_dtype: Type of the stored features.
        more: Settings that change what is stored.
    """
    rows, cols, channels = shape
    config = {
        "backbone": "imported",
        "source": source,
        "model": source,
        "grid": [rows, cols],
        "store_dtype": store_dtype,
        **more,
    }
    return {"format": FORMAT_VERSION, "config": config, "taps": list(taps), "channels": channels}


def _check_beside(scene: SceneArrays) -> None:
    """Refuse arrays beside the features that numpy would stretch to fit."""
    views, rows, cols, _ = next(iter(scene.features.values())).shape
    shapes = {
        "world_xyz": (views, rows, cols, 3),
        "center_xyz": (views, rows, cols, 3),
        "depth_share": (views, rows, cols),
        "coverage": (views, rows, cols),
        "preview": (views, 8 * rows, 8 * cols, 3),
        "world_from_camera": (views, 4, 4),
        "intrinsics": (views, 3, 3),
        "image_size": (views, 2),
    }
    for name, shape in shapes.items():
        given = getattr(scene, name)
        if given is not None and np.shape(given) != shape:
            raise SceneError(
                f"{scene.scene_id}: {name} must be {list(shape)} for features of {views} views and "
                f"{rows} x {cols} tokens, got {list(np.shape(given))}"
            )
    check_view_ids(scene)


def _check_whole_numbers(scene: SceneArrays, store_dtype: str) -> None:
    for tap, values in scene.features.items():
        try:
            check_whole_numbers(tap, values, seen_tokens(scene, values), store_dtype)
        except SceneError as error:
            raise SceneError(f"{scene.scene_id}: {error}") from error


def _num_views(scene: SceneArrays) -> int:
    return len(next(iter(scene.features.values()), ()))
