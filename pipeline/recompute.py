"""A sample of a store's scenes computed anew: equal, or close where the machine differs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vega3d.pipeline.backbones.numerics import Numerics, apply_numerics, environment
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import SceneError, StoreError
from vega3d.pipeline.scenes.scene import SceneSource
from vega3d.pipeline.store.identity import differing_fields
from vega3d.pipeline.store.shard import TOLERANCE
from vega3d.pipeline.store.store import Store

if TYPE_CHECKING:
    from vega3d.pipeline.store.scene_arrays import SceneArrays

BFLOAT16_TOLERANCE = 5e-2
"""TOLERANCE for features computed in bfloat16, whose 8 bits round differently on other machines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recomputed:
    """A stored scene beside the same scene computed anew."""

    scene_id: str
    same_content: bool
    """The pixels, depths and cameras are those that were extracted."""

    same_environment: bool
    """Equal bytes are promised."""

    same_bytes: bool
    relative_l2: float | None
    """Largest over the taps; None where the scene cannot be compared."""

    passed: bool


def verify_deep(
    url: str, source: SceneSource, *, model: str | None = None, sample: int = 2
) -> Iterator[Recomputed]:
    """Compute some scenes of a store anew and compare: equal, or close where the machine differs.

    Args:
        url: Folder or URL of the store.
        source: The scenes that it was made from.
        model: Hub id or folder; the one in the store's config where left out.
        sample: How many scenes, spread evenly over the rows.

    Raises:
        StoreError: The store's features were imported, or the model is another one.
    """
    import torch

    from vega3d.pipeline.backbones.loading import load_from_config
    from vega3d.pipeline.features import decode_scene, encode_scene
    from vega3d.pipeline.prepared import prepare_model

    store = Store.open(url)
    prepared = prepare_model(stored_config(store, model))
    wanted = {**prepared.identity, "format": store.identity["format"]}  # features have no format
    if fields := differing_fields(wanted, store.identity):
        raise StoreError(f"{url}: recomputing needs the same model and config: {'; '.join(fields)}")
    numerics = Numerics(**store.attributes["numerics"])
    if numerics.device == "cuda" and not torch.cuda.is_available():
        numerics = replace(numerics, device="cpu")  # another environment: compared with tolerance
    apply_numerics(numerics)
    backbone = load_from_config(prepared.config.backbone, numerics, prepared.prompt)
    here = environment(numerics.device)
    chosen = np.unique(np.linspace(0, len(store.scene_ids) - 1, sample).astype(int))
    for scene_id in [store.scene_ids[index] for index in chosen] if store.scene_ids else ():
        unit = store.row(scene_id) // int(store.attributes["scenes_per_shard"])
        same_environment = dict(store.records[unit].environment) == here
        try:
            decoded = decode_scene(source, scene_id, prepared.config)
        except SceneError:
            yield _changed(scene_id, same_environment)
            continue
        if decoded.seen.content_sha256 != store.content_sha256(scene_id):
            yield _changed(scene_id, same_environment)
            continue
        yield _compare(store, encode_scene(decoded, backbone, prepared.config), same_environment)


def stored_config(store: Store, model: str | None = None) -> ExtractConfig:
    """Return the config that a store was made with; raises StoreError for imported features."""
    plain = dict(store.identity["config"])
    if not store.saw_pixels:
        raise StoreError(f"{store.url}: imported features cannot be recomputed")
    return ExtractConfig.from_stored({**plain, "model": model} if model else plain)


def _changed(scene_id: str, same_environment: bool) -> Recomputed:
    return Recomputed(
        scene_id=scene_id,
        same_content=False,
        same_environment=same_environment,
        same_bytes=False,
        relative_l2=None,
        passed=False,
    )


def _compare(store: Store, anew: "SceneArrays", same_environment: bool) -> Recomputed:
    same_bytes, worst = True, 0.0
    for tap in store.taps:
        stored = store.features(anew.scene_id, tap)
        again = store.through(anew.features[tap], tap)
        same_bytes &= stored.tobytes() == again.tobytes()
        seen = ~np.isnan(stored)
        ours, theirs = again[seen].astype(np.float64), stored[seen].astype(np.float64)
        norm = float(np.linalg.norm(theirs)) or 1.0
        worst = max(worst, float(np.linalg.norm(ours - theirs)) / norm)
    exact = store.identity["config"].get("dtype", "float32") == "float32"
    close = worst <= (TOLERANCE if exact else BFLOAT16_TOLERANCE)
    return Recomputed(
        scene_id=anew.scene_id,
        same_content=True,
        same_environment=same_environment,
        same_bytes=same_bytes,
        relative_l2=worst,
        passed=same_bytes if same_environment else close,
    )
