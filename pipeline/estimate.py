"""What a run will take before it starts: bytes, FLOPs, hours, money, and whether caching pays."""

import math
from dataclasses import asdict
from typing import Any

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import ModelFacts
from vega3d.pipeline.bucket_load import bucket_load
from vega3d.pipeline.config import ExtractConfig, Rates
from vega3d.pipeline.jpeg_sizes import jpeg_divisor
from vega3d.pipeline.limits import (
    SCANNET_COLOR,
    SCANNET_DEPTH,
    SCENE_HELD_BYTES,
    SCENES_AHEAD_BYTES,
)
from vega3d.pipeline.machines import (
    COMPILE_S,
    HALF,
    STORE_S,
    WHOLE,
    ViewCost,
    cpu_cores,
    gpu_memory_bytes,
    pace,
)
from vega3d.pipeline.store.layout import Layout
from vega3d.pipeline.store.units import Plan

_LOAD_BYTES_PER_S = 1e9
_SEARCHED_AT_MOST = 16
_SCANNET_VIEW_BYTES = math.prod(SCANNET_COLOR) * 3 + math.prod(SCANNET_DEPTH) * 4
_PROCESS_BYTES = 1_500_000_000
"""Of Python, torch and their libraries."""


def estimate(
    plan: Plan,
    config: ExtractConfig,
    facts: ModelFacts,
    rates: Rates,
    numerics: Numerics = Numerics(),  # noqa: B008 - frozen
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
        numerics: Batch size and threads; memory and cores go by them.
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
    took = _took(plan, config, facts, rates, numerics, stored, image_size)
    worker_hours = flops / (rates.tflops_per_worker * 1e12) / 3600
    paid_hours = took["wall_s"] / 3600 * took["workers_busy"]
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
        **took,
        "wall_hours": took["wall_s"] / 3600,
        "bucket": bucket_load(layout, took["wall_s"]),
        "price": paid_hours * rates.price_per_worker_hour,
        "break_even": break_even(paid_hours, stored, rates),
        "assumed": _assumed(rates, image_size, _view_cost(config)),
    }


def _view_cost(config: ExtractConfig) -> ViewCost:
    """Return what is stated of a ScanNet view, whole or as this encoder takes it."""
    return WHOLE if jpeg_divisor(config, *SCANNET_COLOR) == 1 else HALF


def _assumed(rates: Rates, image_size: tuple[int, int], view: ViewCost) -> dict[str, Any]:
    """Return what an estimate goes by, beside the model's own numbers."""
    return {
        **asdict(rates),
        "image": f"{image_size[1]}x{image_size[0]}",
        "decode_s_a_view": view.decode_s,
        "geometry_s_a_view": view.geometry_s,
        "store_s_a_602_kb": STORE_S,
        "load_bytes_per_s": _LOAD_BYTES_PER_S,
    }


def _took(
    plan: Plan,
    config: ExtractConfig,
    facts: ModelFacts,
    rates: Rates,
    numerics: Numerics,
    stored_bytes: int,
    image_size: tuple[int, int],
) -> dict[str, Any]:
    """Return the time that overlapped stages take, and what a worker must have."""
    views = sum(scene.num_views for scene in plan.scenes)
    a_view = stored_bytes / max(views, 1)
    on_cpu = rates.gpu == "cpu"
    flops, view = view_flops(config, facts, image_size), _view_cost(config)
    paced = pace(flops, rates.tflops_per_worker, a_view, on_cpu, view)
    busy = max(1, min(rates.workers, len(plan.units)))
    # A unit is one worker's: the last ones leave the others idle.
    a_unit_s = paced.seconds_per_view * views / max(len(plan.units), 1)
    rounds = math.ceil(len(plan.units) / busy)
    weights_bytes = 4 * facts.parameters
    compiles = config.backbone.compiles and numerics.compiled and not on_cpu
    compile_s = COMPILE_S if compiles else 0.0
    load_s = weights_bytes / _LOAD_BYTES_PER_S + compile_s
    ends_s = (paced.decode_s + paced.store_s) * views / max(len(plan.scenes), 1)
    largest = max((scene.num_views for scene in plan.scenes), default=0)
    rows, cols = config.backbone.canvas(facts, *image_size)
    dtype = getattr(config.backbone, "dtype", "float32")
    batch = min(numerics.batch_size or _SEARCHED_AT_MOST, max(largest, 1))
    gpu_bytes = gpu_memory_bytes(facts.parameters, dtype, batch, rows * cols)
    unit_bytes = 2 * a_view * largest * plan.scenes_per_shard  # as float32
    pixels_bytes = min(SCENE_HELD_BYTES, largest * _SCANNET_VIEW_BYTES)
    # One is computed and one still hashed; small ones are ahead, and one of any size.
    scenes_bytes = 3 * pixels_bytes + min(3 * pixels_bytes, SCENES_AHEAD_BYTES)
    held = int(scenes_bytes + 3 * unit_bytes + _PROCESS_BYTES)
    return {
        "stages_s": paced.stages,
        "bound_by": paced.slowest,
        "load_s": load_s,
        "wall_s": load_s + ends_s + rounds * a_unit_s,
        "workers_busy": busy,
        "cores_per_worker": float(numerics.threads)
        if on_cpu
        else cpu_cores(a_view, 1 / paced.seconds_per_view, view),
        "gpu_memory_bytes": 0 if on_cpu else gpu_bytes,
        "host_memory_bytes": held + (gpu_bytes if on_cpu else 0),
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
