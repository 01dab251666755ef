"""Score a finished run again, on its own held-out views or on other stores: `vega3d-train eval`."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vega3d.pipeline.errors import UsageError
from vega3d.train.checkpoint import load_weights
from vega3d.train.config import OtherStores, RunConfig, TrainConfig
from vega3d.train.loader import Loader
from vega3d.train.model import SpatialModel
from vega3d.train.order import Sample, SceneViews
from vega3d.train.pairing import Pairing, pair_stores
from vega3d.train.processes import join_processes
from vega3d.train.rundir import (
    LAST,
    check_no_leak,
    check_same_stores,
    plan_run,
    read_record,
    recorded_config,
    recorded_model,
    recorded_pairing,
    same_stores,
    scored_samples,
)
from vega3d.train.scoring import Scores, score_model
from vega3d.train.streams import FeatureCache
from vega3d.train.usable import check_labels

_log = logging.getLogger(__name__)


def evaluate_run(
    run_dir: str | Path,
    run: RunConfig | None = None,
    *,
    prior: str | Sequence[str] | None = None,
    semantic: str | Sequence[str] | None = None,
    labels: str | Sequence[str] | None = None,
    questions: Sequence[str] | None = None,
    actions: Sequence[str] | None = None,
    weights: str = LAST,
    force_gate: float | None = None,
) -> dict[str, Any]:
    """Return the scores of a run's weights.

    Args:
        run_dir: The run.
        run: Device and workers.
        prior: Another prior store, all of whose scenes are scored, with `semantic`; the run's own
            stores at another place keep its split.
        semantic: Its semantic store.
        labels: Its label store.
        questions: Annotation files of its scenes; the run's own where left out.
        actions: Demonstrations of its scenes, likewise. A policy's cameras and bounds are always
            those it was trained with.
        weights: `last.safetensors` or `best.safetensors`.
        force_gate: Weight of the semantic tokens in place of the learned gate.

    Raises:
        UsageError: There is no run, its stores changed, or others have other channels, another
            grid, or a scene that was trained on.
    """
    run = RunConfig() if run is None else run
    record = read_record(Path(run_dir))
    config = recorded_config(record)
    stores = OtherStores(
        prior=_several(prior),
        semantic=_several(semantic),
        labels=_several(labels),
        questions=_several(questions),
        actions=_several(actions),
    )
    pairing, samples, what = _scored(record, config, run, stores)
    _check_dims(pairing, record)
    model = recorded_model(record)
    load_weights(Path(run_dir) / weights, model, record["identity"])
    scores = _score(model, pairing, samples, config, run, force_gate)
    score = scores.score()
    return {
        "run": str(run_dir),
        "weights": weights,
        "scored": what,
        "scenes": len(scores.scenes),
        "score": score if math.isfinite(score) else None,
        "metrics": scores.metrics(),
        "gate_mean": scores.gate_mean if math.isfinite(scores.gate_mean) else None,
    }


def _score(
    model: SpatialModel,
    pairing: Pairing,
    samples: Sequence[Sample],
    config: TrainConfig,
    run: RunConfig,
    force_gate: float | None,
) -> Scores:
    with join_processes(run.device) as processes:
        loader = Loader(
            pairing,
            min_depth_share=config.min_depth_share,
            seed=config.split_seed,
            workers=run.workers,
            prefetch=run.prefetch,
            cache=FeatureCache(run.cache_bytes),
            device=processes.device,
            questions=pairing.asks(config),
        )
        return score_model(
            model.to(processes.device),
            loader,
            samples,
            processes,
            batch_size=max(1, config.batch_size // config.accumulate),
            amp=config.amp,
            force_gate=force_gate,
        )


def _scored(
    record: dict[str, Any], config: TrainConfig, run: RunConfig, stores: OtherStores
) -> tuple[Pairing, Sequence[Sample], str]:
    """Return what is scored, and what that is in words."""
    if (stores.prior is None) != (stores.semantic is None):
        raise UsageError("other stores come in pairs: give both --prior and --semantic")
    named = [name for name in ("labels", "questions", "actions") if getattr(stores, name)]
    if named and stores.prior is None:
        raise UsageError(f"--{named[0]} goes with other stores: give --prior and --semantic too")
    note = str(record["split"]["note"])
    if stores.prior is None:
        return *_own_views(record, config), note
    pairing = _other_stores(record, run, stores)
    check_labels(pairing, config)
    if same_stores(pairing, record):
        return pairing, plan_run(pairing, config).scoring, note
    what = "All views of other stores."
    if doubt := check_no_leak(pairing, record):
        _log.warning("%s", doubt)
        what = f"{what} {doubt}"
    return pairing, _all_views(pairing, config), what


def _own_views(record: dict[str, Any], config: TrainConfig) -> tuple[Pairing, Sequence[Sample]]:
    pairing = recorded_pairing(record)
    check_same_stores(pairing, record)
    return pairing, plan_run(pairing, config).scoring


def _other_stores(record: dict[str, Any], run: RunConfig, stores: OtherStores) -> Pairing:
    """Pair other stores; what they do not name is the run's own."""
    where, own = record["where"], record["identity"]["stores"]
    named = {
        "prior_tap": own["prior"]["tap"],
        "semantic_tap": own["semantic"]["tap"],
        "questions": stores.questions or where.get("questions"),
        "actions": stores.actions or where.get("actions"),
        "text_model": where.get("text_model"),
    }
    pairing = pair_stores(**{**asdict(stores), **named}, allow_partial=run.allow_partial)
    return replace(pairing, policy=record.get("policy"))


def _several(places: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return (places,) if isinstance(places, str) else None if places is None else tuple(places)


def _all_views(pairing: Pairing, config: TrainConfig) -> list[Sample]:
    views_per_sample = config.views_per_sample
    counts = {name: len(pairing.prior.view_ids(name)) for name in pairing.scene_ids}
    scenes = [
        SceneViews(name, tuple(range(count)))
        for name, count in counts.items()
        if count >= views_per_sample
    ]
    if not scenes:
        raise UsageError(f"no scene has the {views_per_sample} views that a sample needs")
    return scored_samples(pairing, scenes, config)


def _check_dims(pairing: Pairing, record: dict[str, Any]) -> None:
    dims = record["dims"]
    found = {
        "gen": int(pairing.prior.num_channels(pairing.prior_tap)),
        "sem": int(pairing.semantic.num_channels(pairing.semantic_tap)),
        "grid": list(pairing.grid),
    }
    if found != dims:
        raise UsageError(
            f"the run was trained on {dims['gen']} prior and {dims['sem']} semantic channels and a "
            f"{dims['grid']} grid, these stores have {found['gen']}, {found['sem']} and "
            f"{found['grid']}; use stores of the same backbones and taps"
        )
