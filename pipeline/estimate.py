"""What a run will take before it starts: bytes, FLOPs, hours, money, and whether caching pays."""

from dataclasses import asdict
from typing import Any

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.settings import ModelFacts
from vega3d.pipeline.config import ExtractConfig, Rates
from vega3d.pipeline.store.layout import Layout
from vega3d.pipeline.store.units import Plan


def estimate(
    plan: Plan,
    config: ExtractConfig,
    facts: ModelFacts,
    rates: Rates,
    *,
    source_bytes: int = 0,
    image_size: tuple[int, int] = (480, 640),
) -> dict[str, Any]:
    """Return the plan's numbers as plain JSON; pure.

    Args:
        plan: From `plan_units`.
        config: Its resolution decides the tokens a view; `auto` is taken for `image_size`.
        facts: Of the model.
        rates: Assumptions on machines and prices.
        source_bytes: What the source holds, compressed.
        image_size: Height and width of the images, px.
    """
    layout = Layout(
        plan=plan,
        taps=facts.taps,
        channels=facts.channels,
        tokens=config.grid,
        store_dtype=config.store_dtype,
    )
    shards = [size for _, _, size in layout.planned_bytes()]
    stored = sum(shards)
    views = sum(scene.num_views for scene in plan.scenes)
    flops = view_flops(config, facts, image_size) * views
    refused = refused_scenes(plan, config, facts, image_size)
    worker_hours = flops / (rates.tflops_per_worker * 1e12) / 3600
    return {
        "scenes": len(plan.scenes),
        "empty_scenes": sum(scene.num_views == 0 for scene in plan.scenes),
        "refused_scenes": list(refused),
        "refused_because": next(iter(refused.values()), ""),
        "views": views,
        "units": len(plan.units),
        "scenes_per_shard": plan.scenes_per_shard,
        "files": layout.num_files(),
        "source_bytes": source_bytes,
        "stored_bytes": stored,
        "tflop": flops / 1e12,
        "worker_hours": worker_hours,
        "wall_hours": worker_hours / rates.workers,
        "price": worker_hours * rates.price_per_worker_hour,
        "break_even": break_even(worker_hours, stored, rates),
        "assumed": asdict(rates),
    }


def refused_scenes(
    plan: Plan, config: ExtractConfig, facts: ModelFacts, image_size: tuple[int, int]
) -> dict[str, str]:
    """Return the scenes that the encoder cannot take, and why, for images of `image_size`."""
    canvas = config.backbone.canvas(facts, *image_size)
    why = {
        scene.scene_id: config.backbone.refusal(facts, canvas, scene.num_views)
        for scene in plan.scenes
    }
    return {scene_id: reason for scene_id, reason in why.items() if reason}


def view_flops(config: ExtractConfig, facts: ModelFacts, image_size: tuple[int, int]) -> float:
    """Return the operations of one view; where all views are kept, a scene is taken to have 32."""
    canvas = config.backbone.canvas(facts, *image_size)
    return config.backbone.flops_per_view(facts, canvas, config.num_views or 32)


def view_costs(
    backbone: BackboneConfig, facts: ModelFacts, image_size: tuple[int, int] = (480, 640)
) -> dict[str, Any]:
    """Return what an encoder makes of one view and what that takes, with the other defaults.

    Args:
        backbone: Whose taps are counted.
        facts: Of its model; parameters are those that run, up to the last tap.
        image_size: Height and width of the view, px.
    """
    config = ExtractConfig(backbone=backbone)
    rows, cols = backbone.canvas(facts, *image_size)
    size_bytes = 2 if config.store_dtype == "float16" else 4
    stored = config.grid[0] * config.grid[1] * facts.channels * size_bytes * len(facts.taps)
    return {
        "taps": list(facts.taps),
        "tokens": [rows // facts.token_px, cols // facts.token_px],
        "channels": facts.channels,
        "parameters": facts.parameters,
        "flops_per_view": view_flops(config, facts, image_size),
        "bytes_per_view": stored,
    }


def break_even(worker_hours: float, stored_bytes: int, rates: Rates) -> dict[str, Any]:
    """Return from how many epochs a month on the store is cheaper than computing online.

    An epoch online costs the compute again; an epoch from the store costs the time to read it; the
    store costs the compute once and its room for a month.
    """
    gigabytes = stored_bytes / 1e9
    online = worker_hours * rates.price_per_worker_hour
    read_hours = gigabytes / rates.read_gb_per_s / 3600
    reading = read_hours * rates.price_per_worker_hour
    storing = gigabytes * rates.price_per_gb_month
    saved = online - reading
    if saved <= 0:
        return {
            "epochs": None,
            "verdict": "caching does not pay: reading an epoch takes longer than computing it; "
            "compute online, or keep fewer taps",
        }
    epochs = (online + storing) / saved
    return {
        "epochs": epochs,
        "verdict": f"caching pays from {epochs:.1f} epochs a month on; below that, compute online",
    }
