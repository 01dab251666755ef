"""The arrays of a scene, checked and laid out as the store's blocks; no files here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vega3d.pipeline.errors import SceneError, StoreError
from vega3d.pipeline.store.layout import GEOMETRY, PACKED, ArraySpec
from vega3d.pipeline.store.moments import scene_moments
from vega3d.pipeline.store.record import MAX_FAILURE_BYTES, SceneRecord, pack_matrices
from vega3d.pipeline.store.shard import Place

_WIDER = {
    "int8": "use --store-dtype float16 (whole to 2048) or float32",
    "float16": "use --store-dtype float32 (whole to 16777216)",
    "float32": "no stored type holds them: number the classes anew",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneArrays:
    """The features of one scene and what the store keeps beside them; V views, gh x gw tokens."""

    scene_id: str
    features: Mapping[str, np.ndarray]
    """By tap, float32 [V, gh, gw, C]; stored as NaN where not covered, whatever stands here. Once
    `as_stored`, in the stored type."""

    view_ids: Sequence[str]
    """Of each view, as other stores of the scene name it: numbers would match whatever stands at
    that place elsewhere."""

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
    repeated_views: int = 0
    """Of these, those that repeat a view before them."""


@dataclass(frozen=True, slots=True)
class SceneFailure:
    """A scene that could not be read or computed."""

    scene_id: str
    reason: str


def unit_chunks(
    spec: ArraySpec, taps: Sequence[str], scenes: Mapping[int, SceneArrays | SceneFailure]
) -> dict[Place, np.ndarray]:
    """Return the unit's chunks of an array, by their place in the shard; only what is known.

    Args:
        spec: One of the store's unit arrays.
        taps: Of the store, in its order.
        scenes: From `as_stored`, by their row in the unit.
    """
    chunks: dict[Place, np.ndarray] = {}
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    for row, scene in scenes.items():
        if isinstance(scene, SceneFailure):
            continue
        if spec.name == "moments":
            values = np.stack([_moments(scene.features[tap], spec.shape[-1]) for tap in taps])
            chunks[row, 0, 0, 0] = np.ascontiguousarray(values, dtype=dtype)
            continue
        inner = (0,) * (len(spec.shape) - 2)
        for view, value in enumerate(_views(spec.name, scene)):
            chunks[(row, view, *inner)] = np.ascontiguousarray(value, dtype=dtype)
    return chunks


def as_stored(
    scene: SceneArrays | SceneFailure, arrays: Sequence[ArraySpec]
) -> SceneArrays | SceneFailure:
    """Return the scene with its features in the stored type, or its failure where they do not fit.

    Tokens that nobody saw (coverage 0) become NaN, whatever the encoder or the file holds there.

    Raises:
        StoreError: The features have another shape than the store's.
    """
    if isinstance(scene, SceneFailure):
        return scene
    try:
        check_view_ids(scene)
        features = {
            spec.name: _stored_features(scene, spec)
            for spec in arrays
            if spec.name in scene.features
        }
    except SceneError as error:
        return SceneFailure(scene.scene_id, str(error))
    return replace(scene, features=features)


def without_unseen(scene: SceneArrays) -> SceneArrays:
    """Return the scene with NaN where nothing was seen: a filler would enter the statistics."""
    if scene.coverage is None or (seen := np.asarray(scene.coverage) > 0).all():
        return scene
    # Whole numbers, as of class ids, have no NaN; float64 keeps them for the checks to come.
    floats = {
        tap: values if values.dtype.kind == "f" else values.astype(np.float64)
        for tap, values in scene.features.items()
    }
    features = {
        tap: np.where(seen[..., None], values, np.asarray(np.nan, values.dtype))
        for tap, values in floats.items()
    }
    return replace(scene, features=features)


def scene_record(scene: SceneArrays | SceneFailure, row: int) -> SceneRecord:
    """Return what the unit's commit says of a scene."""
    if isinstance(scene, SceneFailure):
        reason = scene.reason.encode(errors="replace")[:MAX_FAILURE_BYTES].decode(errors="ignore")
        return SceneRecord(scene_id=scene.scene_id, row=row, failure=reason)
    count = len(next(iter(scene.features.values())))
    return SceneRecord(
        scene_id=scene.scene_id,
        row=row,
        content_sha256=scene.content_sha256,
        view_ids=tuple(scene.view_ids),
        image_size=((0, 0),) * count
        if scene.image_size is None
        else tuple((int(height), int(width)) for height, width in scene.image_size),
        world_from_camera=pack_matrices(scene.world_from_camera),
        intrinsics=pack_matrices(scene.intrinsics),
        dropped_views=scene.dropped_views,
        repeated_views=scene.repeated_views,
    )


def _stored_features(scene: SceneArrays, spec: ArraySpec) -> np.ndarray:
    """Return a tap's features in the stored type; raises SceneError where they do not fit."""
    features = scene.features[spec.name]
    if features.ndim != 4 or features.shape[1:] != spec.inner_shape:
        raise StoreError(
            f"{scene.scene_id}: tap {spec.name} must be [views, "
            f"{', '.join(map(str, spec.inner_shape))}], got {list(features.shape)}"
        )
    if not 0 < len(features) <= spec.shape[1]:
        raise SceneError(
            f"{scene.scene_id}: {len(features)} views, where the store was planned for 1 to "
            f"{spec.shape[1]}; did the source change? Write it to a store of its own"
        )
    seen = seen_tokens(scene, features)
    stored, absmax = _rounded(features, seen, np.dtype(spec.dtype).newbyteorder("<"))
    _check_range(spec, absmax)
    if (absmax > exact_to(spec.dtype)).any():
        check_whole_numbers(spec.name, features, seen, spec.dtype)
    return stored


def rounded_features(features: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """Return features in the stored type; a token that holds a NaN was not seen."""
    seen = ~np.isnan(features).any(axis=-1)
    return _rounded(features, seen, np.dtype(spec.dtype).newbyteorder("<"))[0]


def _rounded(
    features: np.ndarray, seen: np.ndarray, dtype: np.dtype[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return features in a type, NaN where not seen, and each channel's largest |x| before that.

    The features themselves where nothing is to be changed.
    """
    tokens, of_token = features.reshape(-1, features.shape[-1]), seen.reshape(-1)
    if dtype == PACKED:
        from vega3d.pipeline.store.packed import packed

        codes, absmax = packed(tokens, of_token)
        return codes.reshape(*features.shape[:-1], -1), absmax
    if features.dtype == np.float32 and dtype == np.float16:
        from vega3d.pipeline.store.one_pass import rounded  # readers need no compiler

        halves, absmax = rounded(tokens, of_token)
        return halves.astype(dtype, copy=False).reshape(features.shape), absmax
    if not seen.all():
        kind = features.dtype if features.dtype.kind == "f" else np.float64  # whole numbers
        features = np.where(seen[..., None], features, np.asarray(np.nan, kind))
    absmax = _absmax(features, seen)
    with np.errstate(over="ignore"):  # the caller tells
        return features.astype(dtype, copy=False), absmax


def check_view_ids(scene: SceneArrays) -> None:
    """Raise SceneError unless every view has an id of its own."""
    views = len(next(iter(scene.features.values()), ()))
    if len(scene.view_ids) != views or len(set(scene.view_ids)) != views:
        raise SceneError(
            f"{scene.scene_id}: there are {len(set(scene.view_ids))} different view ids for "
            f"{views} views; give view_ids, as other stores of the scene name its views"
        )


def check_whole_numbers(tap: str, features: np.ndarray, seen: np.ndarray, dtype: str) -> None:
    """Raise SceneError where a channel of whole numbers, as class ids are, would be rounded.

    Args:
        tap: Its name.
        features: [V, gh, gw, C].
        seen: bool [V, gh, gw]: the tokens that are covered.
        dtype: Type of the stored features.
    """
    for channel in np.flatnonzero(_absmax(features, seen) > exact_to(dtype)):
        values = features[..., channel][seen]
        if values.dtype.kind == "f" and (values != np.round(values)).any():
            continue
        with np.errstate(over="ignore"):
            stored = (
                values.astype(dtype) if dtype != PACKED else _through(features, seen, int(channel))
            )
        if (changed := np.flatnonzero(stored != values)).size:
            first = changed[0]
            raise SceneError(
                f"tap {tap}: channel {channel} holds whole numbers, as class ids are, and {dtype} "
                f"would make {values[first]:.0f} {stored[first]:.0f}; {_WIDER[dtype]}"
            )


def _through(features: np.ndarray, seen: np.ndarray, channel: int) -> np.ndarray:
    """Return a channel of the tokens seen after packing."""
    from vega3d.pipeline.store.packed import packed, unpacked

    tokens = features[seen]
    codes, _ = packed(tokens, np.ones(len(tokens), dtype=bool))
    return unpacked(codes, tokens.shape[1])[:, channel]


def _moments(features: np.ndarray, channels: int) -> np.ndarray:
    if features.dtype == np.int8:
        from vega3d.pipeline.store.packed import unpacked

        features = unpacked(features, channels)
    return scene_moments(features)


def exact_to(dtype: str) -> int:
    """Return the whole number up to which all are exact in a type; 0 where none is for sure."""
    if dtype == PACKED:
        return 0
    return int(2 ** (np.finfo(dtype).nmant + 1))


def seen_tokens(scene: SceneArrays, features: np.ndarray) -> np.ndarray:
    """Return which tokens of [V, gh, gw, C] the backbone saw, bool [V, gh, gw]."""
    if scene.coverage is None:
        return np.ones(features.shape[:3], dtype=bool)
    return np.asarray(scene.coverage) > 0


def _absmax(features: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the largest |x| of each channel over the tokens seen."""
    if features.dtype in (np.float16, np.float32):
        from vega3d.pipeline.store.one_pass import channel_absmax  # readers need no compiler

        return channel_absmax(features.reshape(-1, features.shape[-1]), seen.reshape(-1))
    found: np.ndarray = np.abs(features[seen]).max(axis=0, initial=0.0)
    return found


def _check_range(spec: ArraySpec, absmax: np.ndarray) -> None:
    if bad := np.flatnonzero(~np.isfinite(absmax)).tolist():
        raise SceneError(
            f"tap {spec.name}: channel {bad[0]} ({len(bad)} in all) is not finite; "
            "compute in float32 (--dtype float32) or look at the checkpoint"
        )
    limit = float(np.finfo(spec.number_dtype).max)
    if absmax.max(initial=0.0) > limit:
        channel = int(absmax.argmax())
        raise SceneError(
            f"tap {spec.name}: channel {channel} reaches {absmax[channel]:.6g}, and "
            f"{spec.dtype} ends at {limit:g}; store with --store-dtype float32"
        )


def _views(name: str, scene: SceneArrays) -> Iterable[np.ndarray]:
    """Return what an array keeps of each view of a scene; nothing where nothing is known."""
    if name == "geometry":
        return _geometry(scene)
    if name == "preview":
        return () if scene.preview is None else scene.preview
    return scene.features[name]


def _geometry(scene: SceneArrays) -> np.ndarray:
    """Return `GEOMETRY` of each token, float32 [V, gh, gw, 8]."""
    tokens = next(iter(scene.features.values())).shape[:-1]
    found = np.full((*tokens, len(GEOMETRY)), np.nan, dtype="<f4")
    found[..., 7] = 1 if scene.coverage is None else scene.coverage
    if scene.world_xyz is not None:
        found[..., :3] = scene.world_xyz
        found[..., 3:6] = scene.world_xyz if scene.center_xyz is None else scene.center_xyz
        found[..., 6] = np.isfinite(scene.world_xyz).all(axis=-1)
    elif scene.center_xyz is not None:
        found[..., 3:6] = scene.center_xyz
    if scene.depth_share is not None:
        found[..., 6] = scene.depth_share
    return found
