"""Checking a store: every object against its checksum, and a sample of scenes computed anew."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from vega3d.pipeline.commits import Record
from vega3d.pipeline.config import ExtractConfig, Numerics
from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.extract import prepare_model
from vega3d.pipeline.features import decode_scene, encode_scene
from vega3d.pipeline.identity import differing_fields, sha256_of
from vega3d.pipeline.numerics import apply_numerics, environment
from vega3d.pipeline.objects import TEMPORARY_SUFFIX, Objects, open_objects, zarr_store
from vega3d.pipeline.scenes import SceneSource
from vega3d.pipeline.store import Store
from vega3d.pipeline.writer import revoke

DEEP_TOLERANCE = 2e-3
"""Relative L2 between stored and recomputed features of another machine: float16 keeps 11 bits,
and float32 kernels differ by about 1e-7, which flips few of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What `verify` found; `damaged` gives a reason for each object."""

    store: str
    objects: int
    bytes: int
    damaged: dict[str, str]
    uncommitted_shards: Sequence[str]
    """Written, but no commit speaks of them: a run is going on, or was cut short."""

    leftovers: int
    """Temporary files of writers that died."""

    environments: int
    """Different machines or versions that took part: equal bytes are promised only for one."""

    repaired_units: Sequence[int] = ()
    """Units whose commit was taken back; the next run computes them anew."""


def verify(url: str, *, repair: bool = False) -> Verification:
    """Read every committed object again and compare it with its checksum.

    Args:
        url: Folder or URL of the store.
        repair: Take back the commits of damaged units and remove what no commit speaks of, so
            that the next run computes them anew.

    Raises:
        StoreError: There is no store.
    """
    store = Store.open(url)
    objects = open_objects(url)
    committed = {
        key: (unit, entry.sha256)
        for unit, record in store.records.items()
        for key, entry in record.objects.items()
    }
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda item: _reason(objects, item[0], item[1][1]), committed.items())
        )
    damaged = {key: reason for key, (reason, _) in zip(committed, found, strict=True) if reason}
    keys = list(objects.keys(""))
    sharded = _sharded_arrays(store)
    shards = [key for key in keys if key.split("/")[0] in sharded and "/c/" in key]
    leftovers = [key for key in keys if key.endswith(TEMPORARY_SUFFIX)]
    uncommitted = [key for key in shards if key not in committed and key not in leftovers]
    repaired: list[int] = []
    if repair:
        repaired = sorted({committed[key][0] for key in damaged})
        for unit in repaired:
            revoke(objects, store.records[unit])
        for key in (*uncommitted, *leftovers):
            objects.delete(key)
    return Verification(
        store=url,
        objects=len(committed),
        bytes=sum(size for _, size in found),
        damaged=damaged,
        uncommitted_shards=uncommitted,
        leftovers=len(leftovers),
        environments=len(_environments(store.records.values())),
        repaired_units=repaired,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recomputed:
    """A stored scene beside the same scene computed anew."""

    scene_id: str
    same_content: bool
    """The pixels, depths and cameras are those that were extracted."""

    same_environment: bool
    """Equal bytes are promised."""

    same_bytes: bool
    relative_l2: float
    """Largest over the taps."""

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
    store = Store.open(url)
    config = stored_config(store, model)
    prepared = prepare_model(config)
    if fields := differing_fields(prepared.identity, store.identity):
        raise StoreError(f"{url}: recomputing needs the same model and config: {'; '.join(fields)}")
    numerics = Numerics(**store.attributes["numerics"])
    apply_numerics(numerics)
    from vega3d.pipeline.backbones import load_from_config

    backbone = load_from_config(prepared.config, numerics, prepared.prompt_embeds)
    here = environment(numerics.device)
    chosen = np.unique(np.linspace(0, len(store.scene_ids) - 1, sample).astype(int))
    for index in chosen if store.scene_ids else ():
        scene_id = store.scene_ids[index]
        decoded = decode_scene(source, scene_id, prepared.config)
        features = encode_scene(decoded, backbone, prepared.config).features
        unit = store.row(scene_id) // int(store.attributes["scenes_per_shard"])
        yield _compare(
            store,
            scene_id,
            features,
            same_content=decoded.content_sha256 == store.content_sha256(scene_id),
            same_environment=store.records[unit].environment == here,
        )


def stored_config(store: Store, model: str | None = None) -> ExtractConfig:
    """Return the config that a store was made with; raises StoreError for imported features."""
    plain = dict(store.identity["config"])
    if plain["backbone"] == "imported":
        raise StoreError(f"{store.url}: imported features cannot be recomputed")
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
    }
    return ExtractConfig(**{**fields, "model": model or plain["model"]})


def status(url: str) -> dict[str, Any]:
    """Return how far a store is, as plain JSON."""
    store = Store.open(url)
    done = {scene.scene_id for record in store.records.values() for scene in record.scenes}
    return {
        "store": url,
        "scenes": len(store.rows),
        "committed": len(store.scene_ids),
        "failures": store.failures,
        "pending": len(store.pending),
        "units": len(store.units),
        "units_committed": len(store.records),
        "views": sum(store.num_views(scene_id) for scene_id in store.scene_ids),
        "stored_bytes": sum(
            entry.size for record in store.records.values() for entry in record.objects.values()
        ),
        "taps": store.taps,
        "config_digest": store.config_digest,
        "digest": store.digest(),
        "complete": len(done) == len(store.rows),
        "environments": _environments(store.records.values()),
        "numerics": store.attributes["numerics"],
    }


def _reason(objects: Objects, key: str, sha256: str) -> tuple[str, int]:
    try:
        raw = objects.read(key)
    except (OSError, StoreError) as error:
        return f"cannot be read: {error}", 0
    return ("" if sha256_of([raw]) == sha256 else "does not match its checksum"), len(raw)


def _sharded_arrays(store: Store) -> set[str]:
    """Return the names of the arrays of which each unit writes a shard."""
    arrays = zarr.open_group(zarr_store(store.url), mode="r").arrays()
    return {name for name, array in arrays if array.shards is not None}


def _environments(records: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - values of a dict
    found: list[dict[str, Any]] = []
    record: Record
    for record in records:
        if record.environment and record.environment not in found:
            found.append(dict(record.environment))
    return found


def _compare(
    store: Store,
    scene_id: str,
    features: Any,  # noqa: ANN401 - mapping of taps to arrays
    *,
    same_content: bool,
    same_environment: bool,
) -> Recomputed:
    same_bytes, worst = True, 0.0
    for tap in store.taps:
        stored = store.features(scene_id, tap)
        anew = features[tap].astype(stored.dtype)
        same_bytes &= stored.tobytes() == anew.tobytes()
        seen = ~np.isnan(stored)
        same_bytes &= bool(np.array_equal(seen, ~np.isnan(anew)))
        ours, theirs = anew[seen].astype(np.float64), stored[seen].astype(np.float64)
        worst = max(worst, float(np.linalg.norm(ours - theirs) / (np.linalg.norm(theirs) or 1.0)))
    return Recomputed(
        scene_id=scene_id,
        same_content=same_content,
        same_environment=same_environment,
        same_bytes=same_bytes,
        relative_l2=worst,
        passed=same_content and (same_bytes if same_environment else worst <= DEEP_TOLERANCE),
    )
