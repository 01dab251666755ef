"""Score a finished run again, on its own held-out views or on other stores: `vega3d-train eval`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vega3d.pipeline.errors import UsageError
from vega3d.train.checkpoint import load_weights
from vega3d.train.config import RunConfig, TrainConfig
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


def evaluate_run(
    run_dir: str | Path,
    run: RunConfig | None = None,
    *,
    prior: str | Sequence[str] | None = None,
    semantic: str | Sequence[str] | None = None,
    labels: str | Sequence[str] | None = None,
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
        weights: `last.safetensors` or `best.safetensors`.
        force_gate: Weight of the semantic tokens in place of the learned gate.

    Raises:
        UsageError: There is no run, its stores changed, or others have other channels, another
            grid, or a scene that was trained on.
    """
    run = RunConfig() if run is None else run
    record = read_record(Path(run_dir))
    config = recorded_config(record)
    if (prior is None) != (semantic is None):
        raise UsageError("other stores come in pairs: give both --prior and --semantic")
    if labels is not None and prior is None:
        raise UsageError("--labels goes with other stores: give --prior and --semantic too")
    if prior is None or semantic is None:
        pairing, samples = _own_views(record, config)
        what = record["split"]["note"]
    else:
        pairing = _other_stores(record, config, run, prior, semantic, labels)
        if same_stores(pairing, record):
            samples, what = plan_run(pairing, config).scoring, record["split"]["note"]
        else:
            check_no_leak(pairing, record)
            samples = _all_views(pairing, config)
            what = "All views of other stores."
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


def _own_views(record: dict[str, Any], config: TrainConfig) -> tuple[Pairing, Sequence[Sample]]:
    pairing = recorded_pairing(record)
    check_same_stores(pairing, record)
    return pairing, plan_run(pairing, config).scoring


def _other_stores(
    record: dict[str, Any],
    config: TrainConfig,
    run: RunConfig,
    prior: str | Sequence[str],
    semantic: str | Sequence[str],
    labels: str | Sequence[str] | None,
) -> Pairing:
    taps = {name: record["identity"]["stores"][name]["tap"] for name in ("prior", "semantic")}
    pairing = pair_stores(
        prior,
        semantic,
        prior_tap=taps["prior"],
        semantic_tap=taps["semantic"],
        labels=labels,
        questions=record["where"].get("questions"),
        actions=record["where"].get("actions"),
        text_model=record["where"].get("text_model"),
        allow_partial=run.allow_partial,
    )
    check_labels(pairing, config)
    return pairing


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
