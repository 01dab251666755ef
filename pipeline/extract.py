"""The main job, told by one function: posed scenes in, features in a sharded Zarr store out."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vega3d.pipeline.checkpoints import ModelFacts, cache_dir, model_facts
from vega3d.pipeline.commits import Record
from vega3d.pipeline.config import ExtractConfig, Numerics
from vega3d.pipeline.identity import FORMAT_VERSION, sha256_of
from vega3d.pipeline.merge import merge_commits
from vega3d.pipeline.plan import Plan, Unit, plan_units
from vega3d.pipeline.scenes import SceneSource
from vega3d.pipeline.store import Store
from vega3d.pipeline.worker import Runner, UnitResult, UnitWriter, unit_result
from vega3d.pipeline.writer import create_or_resume, uncommitted


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """How a run ended; the last line on stdout is this as JSON."""

    store: str
    digest: str
    scenes: int
    committed: int
    failures: Mapping[str, str]
    pending: int
    views: int
    dropped_views: int
    stored_bytes: int
    units: int
    units_this_run: int
    wall_s: float
    seconds: Mapping[str, float]
    """Summed over this run's units: decode, compute, store."""

    taps: Sequence[str]


def extract(
    source: SceneSource,
    out: str,
    config: ExtractConfig,
    *,
    numerics: Numerics,
    run: Runner,
    retry_failed: bool = False,
    on_result: Callable[[UnitResult, Sequence[Unit]], None] = lambda _result, _units: None,
) -> Summary:
    """Write the features of every scene to the store at `out`; run again to resume.

    Args:
        source: Where the scenes are.
        out: Folder or URL of the store; made if it is not there.
        config: What decides the stored bytes.
        numerics: What changes their last bits; a store that is there keeps its own.
        run: How units are handed out: `run_inline`, or the one of `vega3d.cluster`.
        retry_failed: Recompute the units that hold failed scenes.
        on_result: Called after each unit, with all units of this run, to show progress.

    Raises:
        ValueError: No scenes, ids that repeat, or (CheckpointError, StoreError) a model or store
            that does not fit.
    """
    started = time.monotonic()
    plan = plan_units(
        source.entries(), num_views=config.num_views, scenes_per_shard=config.scenes_per_shard
    )
    model = prepare_model(config)
    store = create_or_resume(out, plan, model.identity, numerics)
    units = uncommitted(store, plan, retry_failed=retry_failed)
    results = []
    for result in run(UnitWriter(source, model.config, store, model.prompt_embeds), units):
        results.append(result)
        on_result(result, units)
    records = merge_commits(store, plan)
    return summarize(out, plan, records, results, time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model that was looked at but not loaded."""

    config: ExtractConfig
    """The config with block indices counted from 0."""

    identity: dict[str, Any]
    facts: ModelFacts
    prompt_embeds: np.ndarray | None
    """The empty prompt's embedding, float32 [L, D]; Wan only."""


def prepare_model(config: ExtractConfig) -> PreparedModel:
    """Hash the weights, encode the empty prompt (once, then cached), name the taps."""
    facts = model_facts(config)
    config = replace(config, blocks=facts.blocks)
    identity: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "config": json.loads(json.dumps(asdict(config))),  # tuples become lists
        "weights_sha256": facts.weights_sha256,
        "taps": list(facts.taps),
        "channels": facts.channels,
    }
    prompt_embeds = None
    if config.backbone == "wan2.1-t2v":
        from vega3d.pipeline.noise import NOISE_VERSION
        from vega3d.pipeline.prompt import empty_prompt_embedding

        prompt_embeds = empty_prompt_embedding(config.model, cache_dir())
        identity["prompt_sha256"] = sha256_of([np.ascontiguousarray(prompt_embeds).data])
        identity["noise_version"] = NOISE_VERSION
    return PreparedModel(config, identity, facts, prompt_embeds)


def summarize(
    out: str,
    plan: Plan,
    records: Mapping[int, Record],
    results: Sequence[UnitResult],
    wall_s: float,
) -> Summary:
    """Return what the store holds now and what this run did."""
    store = Store.open(out)
    totals = [unit_result(record, {}) for record in records.values()]
    stages = sorted({stage for result in results for stage in result.seconds})
    return Summary(
        store=out,
        digest=store.digest(),
        scenes=len(plan.entries),
        committed=len(store.scene_ids),
        failures=store.failures,
        pending=len(store.pending),
        views=sum(total.views for total in totals),
        dropped_views=sum(total.dropped_views for total in totals),
        stored_bytes=sum(total.stored_bytes for total in totals),
        units=len(plan.units),
        units_this_run=len(results),
        wall_s=wall_s,
        seconds={s: sum(result.seconds.get(s, 0.0) for result in results) for s in stages},
        taps=store.taps,
    )
