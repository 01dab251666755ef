"""The arrays of a scene, checked and laid out as the store's blocks; no files here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vega3d.pipeline.errors import SceneError, StoreError
from vega3d.pipeline.store.commits import SceneRecord
from vega3d.pipeline.store.layout import MOMENTS, ArraySpec


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneArrays:
    """The features of one scene and what the store keeps beside them; V views, gh x gw tokens."""

    scene_id: str
    features: Mapping[str, np.ndarray]
    """By tap, float32 [V, gh, gw, C]; NaN where `coverage` is 0."""

    view_ids: Sequence[str] = ()
    """Of each view; counted from "0" where left empty."""

    world_xyz: np.ndarray | None = None
    """[V, gh, gw, 3] metres: median over the token's pixels with depth; NaN where there is none."""

    center_xyz: np.ndarray | None = None
    """[V, gh, gw, 3] metres: at the token's centre pixel."""

    depth_share: np.ndarray | None = None
    """[V, gh, gw]: share of the token's pixels with depth; from `world_xyz` where left out."""

    coverage: np.ndarray | None = None
    """[V, gh, gw]: share of the token that the backbone saw; 1 where left out."""

    preview: np.ndarray | None = None
    """uint8 [V, 8 gh, 8 gw, 3]: the whole image, squashed to the grid."""

    world_from_camera: np.ndarray | None = None
    """[V, 4, 4]."""

    intrinsics: np.ndarray | None = None
    """[V, 3, 3] of the colour image, px."""

    image_size: np.ndarray | None = None
    """int [V, 2]: height, width, px."""

    content_sha256: str = ""
    dropped_views: int = 0


@dataclass(frozen=True, slots=True)
class SceneFailure:
    """A scene that could not be read or computed."""

    scene_id: str
    reason: str


def checked(
    scene: SceneArrays | SceneFailure, arrays: Sequence[ArraySpec]
) -> SceneArrays | SceneFailure:
    """Return the scene, or its failure where its numbers cannot be stored."""
    if isinstance(scene, SceneFailure):
        return scene
    try:
        for spec in arrays:
            if spec.name in scene.features:
                _check_features(scene, spec)
    except SceneError as error:
        return SceneFailure(scene.scene_id, str(error))
    return scene


def unit_block(spec: ArraySpec, scenes: Sequence[SceneArrays | SceneFailure]) -> np.ndarray:
    """Return the unit's part of an array: one row a scene, NaN where nothing is real."""
    fill = np.nan if spec.dtype.startswith("float") else 0
    block = np.full(
        (len(scenes), *spec.shape[1:]), fill, dtype=np.dtype(spec.dtype).newbyteorder("<")
    )
    for row, scene in zip(block, scenes, strict=True):
        if isinstance(scene, SceneArrays):
            values = _values(spec.name, scene)
            if values is not None:
                row[: len(values)] = values
    return block


def scene_record(scene: SceneArrays | SceneFailure, row: int) -> SceneRecord:
    """Return what the unit's commit says of a scene."""
    if isinstance(scene, SceneFailure):
        return SceneRecord(scene_id=scene.scene_id, row=row, failure=scene.reason)
    count = len(next(iter(scene.features.values())))
    return SceneRecord(
        scene_id=scene.scene_id,
        row=row,
        content_sha256=scene.content_sha256,
        view_ids=tuple(scene.view_ids) or tuple(str(i) for i in range(count)),
        image_size=np.zeros((count, 2), int).tolist()
        if scene.image_size is None
        else np.asarray(scene.image_size).tolist(),
        world_from_camera=_matrices(scene.world_from_camera, count),
        intrinsics=_matrices(scene.intrinsics, count),
        dropped_views=scene.dropped_views,
    )


def _check_features(scene: SceneArrays, spec: ArraySpec) -> None:
    features = scene.features[spec.name]
    if features.ndim != 4 or features.shape[1:] != spec.shape[2:]:
        raise StoreError(
            f"{scene.scene_id}: tap {spec.name} must be [views, "
            f"{', '.join(map(str, spec.shape[2:]))}], got {list(features.shape)}"
        )
    if not 0 < len(features) <= spec.shape[1]:
        raise SceneError(
            f"{scene.scene_id}: {len(features)} views, where the store was planned for 1 to "
            f"{spec.shape[1]}; did the source change? Write it to a store of its own"
        )
    seen = features if scene.coverage is None else features[np.asarray(scene.coverage) > 0]
    absmax = np.abs(seen.reshape(-1, features.shape[-1])).max(axis=0, initial=0.0)
    if bad := np.flatnonzero(~np.isfinite(absmax)).tolist():
        raise SceneError(
            f"tap {spec.name}: channel {bad[0]} ({len(bad)} in all) is not finite; "
            "compute in float32 (--dtype float32) or look at the checkpoint"
        )
    limit = float(np.finfo(spec.dtype).max)
    if absmax.max(initial=0.0) > limit:
        channel = int(absmax.argmax())
        raise SceneError(
            f"tap {spec.name}: channel {channel} reaches {absmax[channel]:.6g}, and "
            f"{spec.dtype} ends at {limit:g}; store with --store-dtype float32"
        )


def _values(name: str, scene: SceneArrays) -> np.ndarray | None:
    if name in scene.features:
        return scene.features[name]
    if name.startswith("moments_"):
        return _moments(scene.features[name.removeprefix("moments_")])
    first = next(iter(scene.features.values()))
    if name == "coverage" and scene.coverage is None:
        return np.ones(first.shape[:-1], dtype=np.float32)
    if name == "depth_share" and scene.depth_share is None and scene.world_xyz is not None:
        return np.where(np.isfinite(scene.world_xyz).all(axis=-1), np.float32(1), np.float32(0))
    if name == "center_xyz" and scene.center_xyz is None:
        return scene.world_xyz
    beside: dict[str, np.ndarray | None] = {
        "world_xyz": scene.world_xyz,
        "center_xyz": scene.center_xyz,
        "depth_share": scene.depth_share,
        "coverage": scene.coverage,
        "preview": scene.preview,
    }
    return beside[name]


def _moments(features: np.ndarray) -> np.ndarray:
    tokens = features.reshape(-1, features.shape[-1]).astype(np.float64)
    tokens = tokens[~np.isnan(tokens).any(axis=1)]
    moments = {
        "count": np.full(tokens.shape[1], float(len(tokens))),
        "sum": tokens.sum(axis=0),
        "sum_of_squares": (tokens**2).sum(axis=0),
        "absmax": np.abs(tokens).max(axis=0, initial=0.0),
    }
    return np.stack([moments[name] for name in MOMENTS])


def _matrices(values: np.ndarray | None, count: int) -> list[list[list[float]] | None]:
    if values is None:
        return [None] * count
    matrices = np.asarray(values, dtype=np.float64)
    return [matrix.tolist() if np.isfinite(matrix).all() else None for matrix in matrices]
