"""What the commands that extract compose: a runner, an estimate, and what is told in the end.

Standard library and typer only, until one is called.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.cli_scenes import find_scenes
from vega3d.pipeline.commands import tell
from vega3d.pipeline.config import ExtractConfig, Rates, RunConfig
from vega3d.pipeline.errors import UsageError

if TYPE_CHECKING:
    from vega3d.pipeline.worker import Runner


def check_device(numerics: Numerics, run: RunConfig) -> None:
    """Refuse a GPU that is not here, where this process is to use it."""
    if numerics.device == "cuda" and run.runner == "inline" and not gpu_is_here():
        raise UsageError("device cuda is asked for, but torch sees no GPU here; use --device cpu")


def gpu_is_here() -> bool:
    """Return whether torch sees a GPU in this process; loads torch."""
    import torch

    return torch.cuda.is_available()


def runner(run: RunConfig) -> "Runner":
    """Return what hands units out."""
    from vega3d.pipeline.worker import run_inline

    if run.runner == "inline":
        return partial(run_inline, config=run)
    from vega3d.cluster.ray_runner import run_ray

    return partial(run_ray, config=run)


def estimated(scenes: str, config: ExtractConfig, rates: Rates) -> dict[str, Any]:
    """Return what a run would do and cost."""
    from vega3d.pipeline.backbones.checkpoints import planned_facts
    from vega3d.pipeline.backbones.readers import naming_the_encoder
    from vega3d.pipeline.estimate import estimate
    from vega3d.pipeline.plan import plan_units

    entries = find_scenes(scenes).entries()
    planned = plan_units(
        entries, num_views=config.num_views, scenes_per_shard=config.scenes_per_shard
    )
    size_bytes = sum(entry.size_bytes for entry in entries)
    with naming_the_encoder(config.backbone):
        facts = planned_facts(config.backbone)
    return estimate(planned, config, facts, rates, source_bytes=size_bytes)


def tell_summary(summary: dict[str, Any]) -> None:
    """Tell a person how it went."""
    for scene_id, reason in list(summary["failures"].items())[:20]:
        tell(f"failed {scene_id}: {reason}")
    if summary["failures"]:
        tell("when they are mended, run with --retry-failed")
    if summary["changed"]:
        tell(f"{len(summary['changed'])} scenes have another source now; run with --refresh")
    if (error_m := summary["reprojection_m"]) is not None:
        wrong = f"; {len(summary['misread'])} scenes are read wrongly" if summary["misread"] else ""
        tell(f"depths of neighbouring views agree to {error_m * 1000:.0f} mm{wrong}")
    for scene_id, reason in list(summary["postponed"].items())[:20]:
        tell(f"left for the next run {scene_id}: {reason}")
    tell(
        f"{summary['committed']} of {summary['scenes']} scenes in {summary['store']} "
        f"({summary['stored_bytes'] / 1e6:.1f} MB, {summary['wall_s']:.1f} s)"
    )


def tell_estimate(found: Mapping[str, Any], rates: Rates) -> None:
    """Tell a person what a run would do and cost."""
    if refused := found["refused_scenes"]:
        tell(f"{len(refused)} scenes will fail, such as {refused[:3]}: {found['refused_because']}")
    tell(
        f"{found['scenes']} scenes, {found['views']} views in {found['units']} units\n"
        f"{found['stored_bytes'] / 1e9:.3g} GB in {found['files']} files\n"
        f"{found['tflop']:.3g} TFLOP: {found['wall_hours']:.3g} hours and {found['price']:.3g} "
        f"{rates.currency}, on {rates.workers} workers at {rates.tflops_per_worker:g} TFLOP/s and "
        f"{rates.price_per_worker_hour:g} {rates.currency} an hour each (--tflops: `bench` "
        f"measures yours)\n{found['break_even']['verdict']}"
    )
