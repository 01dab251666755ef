"""What the commands that extract compose: a runner, an estimate, and what is told in the end.

Standard library and typer only, until one is called.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from vega3d.pipeline.backbones.numerics import Numerics, gpu_is_here
from vega3d.pipeline.backbones.registry import DEFAULT, unchanged
from vega3d.pipeline.cli_scenes import find_scenes
from vega3d.pipeline.commands import check_out, interrupted
from vega3d.pipeline.config import ExtractConfig, Rates, RunConfig
from vega3d.pipeline.errors import CheckpointError, StoreError, UsageError
from vega3d.pipeline.machines import Machine, stated_tflops
from vega3d.pipeline.places import bench_file
from vega3d.pipeline.settings import as_toml, settings
from vega3d.pipeline.texts import tell, tell_some
from vega3d.pipeline.units_of_measure import size_text, span_text

if TYPE_CHECKING:
    from vega3d.pipeline.runlog import RunLog
    from vega3d.pipeline.runners import Runner


def by_device(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that follow from the device: a CPU is slow, so its units are small.

    A store that is there keeps its own precision and number of scenes a shard, whatever the device.
    """
    device, out = asked.get("device", "auto"), asked.get("out")
    if device == "auto":
        if asked.get("runner") == "ray" and asked.get("address", "local") != "local":
            raise UsageError(
                "--device auto looks at this machine, not at the cluster's; "
                "say --device cuda or cpu"
            )
        device = "cuda" if gpu_is_here() else "cpu"
    stored = _stored_config(out) if out else {}
    on_gpu = device == "cuda"
    found = {"device": device}
    if "gpus_per_worker" not in asked:
        found["gpus_per_worker"] = 1.0 if on_gpu else 0.0
    if "scenes_per_shard" not in asked:
        found["scenes_per_shard"] = stored.get("scenes_per_shard", 8 if on_gpu else 1)
    usual = gpu_settings(asked, on_gpu)
    if "dtype" in usual:
        usual["dtype"] = stored.get("dtype", usual["dtype"])
    return {**found, **usual}


def gpu_settings(asked: Mapping[str, Any], on_gpu: bool) -> dict[str, Any]:
    """Return the settings that have another usual value on a GPU, where none is asked for."""
    found: dict[str, Any] = {}
    if "batch_size" not in asked and on_gpu:
        found["batch_size"] = 0
    if asked.get("dtype", "auto") == "auto" and (usual := usual_dtype(asked, on_gpu)):
        found["dtype"] = usual
    return found


def by_machine(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a plan that follow from its machines, or from what is here."""
    gpu = asked.get("gpu")
    device = asked.get("device", "auto")
    if gpu is not None and device == "auto":
        device = "cpu" if gpu == "cpu" else "cuda"
    found = by_device({**asked, "device": device})
    here = "H100" if found["device"] == "cuda" else "cpu"
    found["gpu"] = gpu or here
    if "tflops" not in asked:
        dtype = found.get("dtype", asked.get("dtype", "float32"))
        cores = asked.get("threads", Numerics().threads)
        name = unchanged(asked.get("backbone", DEFAULT), asked).name
        measured = _measured_tflops(name, found["device"], dtype) if gpu is None else 0.0
        found["tflops"] = measured or stated_tflops(found["gpu"], dtype, cores)
    return found


def _measured_tflops(name: str, device: str, dtype: str) -> float:
    """Return what `bench` has measured here of an encoder; 0 where it has not."""
    try:
        table = json.loads(bench_file(name, device, dtype).read_text())
        return float(table["tflops"])
    except FileNotFoundError:
        return 0.0
    except (OSError, ValueError, KeyError, TypeError) as error:
        tell(f"{bench_file(name, device, dtype)} is no table of bench, and not used: {error!r}")
        return 0.0


def rates_here(config: ExtractConfig, numerics: Numerics, workers: int) -> Rates:
    """Return what a run's estimate goes by: what `plan` does where no GPU is named."""
    machine: Machine = "H100" if numerics.device == "cuda" else "cpu"
    dtype = getattr(config.backbone, "dtype", "float32")
    measured = _measured_tflops(config.backbone.name, numerics.device, dtype)
    tflops = measured or stated_tflops(machine, dtype, numerics.threads)
    return Rates(workers=workers, gpu=machine, tflops_per_worker=tflops)


def usual_dtype(asked: Mapping[str, Any], on_gpu: bool) -> str:
    """Return the precision that an encoder has where none is asked for; "" where it has none."""
    config = unchanged(asked.get("backbone", DEFAULT), asked)
    follows = [one for one in settings(config) if one.key == "dtype" and "auto" in one.metavar]
    if not follows:
        return ""
    own = str(getattr(config, "dtype"))  # noqa: B009 - not every family has it
    return "bfloat16" if on_gpu and own == "float32" else own


def _stored_config(out: str) -> dict[str, Any]:
    """Return the settings of a store that is there; {} where there is none."""
    from vega3d.pipeline.store.store import stored_attributes

    check_out(out)
    attributes = stored_attributes(out)
    return {} if attributes is None else dict(attributes["identity"]["config"])


def check_device(numerics: Numerics, run: RunConfig) -> None:
    """Refuse a GPU that is not here, where this process is to use it."""
    if numerics.device == "cuda" and run.runner == "inline" and not gpu_is_here():
        raise UsageError("device cuda is asked for, but torch sees no GPU here; use --device cpu")


def runner(run: RunConfig) -> "Runner":
    """Return what hands units out."""
    from vega3d.pipeline.runners import run_inline

    if run.runner == "inline":
        return partial(run_inline, config=run)
    from vega3d.cluster.ray_runner import run_ray

    return partial(run_ray, config=run)


def estimated(
    scenes: str, config: ExtractConfig, rates: Rates, numerics: Numerics
) -> dict[str, Any]:
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
    return estimate(planned, config, facts, rates, numerics, source_bytes=size_bytes)


def is_unfinished(summary: Mapping[str, Any]) -> bool:
    """Say whether scenes failed, are still to be done, or were made from what has changed."""
    return any(summary[what] for what in ("failures", "pending", "changed"))


def tell_summary(summary: dict[str, Any]) -> None:
    """Tell a person how it went."""
    tell_some([f"failed {name}: {reason}" for name, reason in summary["failures"].items()])
    if summary["failures"]:
        tell("when they are mended, run with --retry-failed; other settings take another --out")
    if summary["changed"]:
        tell(f"{len(summary['changed'])} scenes have another source now; run with --refresh")
    if (error_m := summary["reprojection_m"]) is not None:
        if count := len(summary["misread"]):
            scenes = "1 scene is" if count == 1 else f"{count} scenes are"
            tell(
                f"depths of neighbouring views differ by {error_m * 1000:.0f} mm: {scenes} read "
                "wrongly, and stored so; `check` shows them, other options take another --out"
            )
        else:
            tell(f"depths of neighbouring views agree to {error_m * 1000:.0f} mm")
    left = summary["postponed"].items()
    tell_some([f"left for the next run {name}: {reason}" for name, reason in left])
    waste = summary["figures"].get("waste", {})
    if waste.get("units"):
        units = "unit was" if waste["units"] == 1 else "units were"
        tell(
            f"{waste['units']} {units} computed twice, by another job or another try as well: "
            f"{waste['seconds']:.1f} s of work were not needed"
        )
    tell(
        f"{summary['committed']} of {summary['scenes']} scenes in {summary['store']} "
        f"({summary['stored_bytes'] / 1e6:.1f} MB, {summary['wall_s']:.1f} s)"
    )


def tell_estimate(found: Mapping[str, Any], rates: Rates) -> None:
    """Tell a person what a run would do and cost."""
    from vega3d.pipeline.bucket_load import told as bucket_told

    if refused := found["refused_scenes"]:
        tell(f"{len(refused)} scenes will fail, such as {refused[:3]}: {found['refused_because']}")
    stages = ", ".join(f"{name} {1000 * s:.3g}" for name, s in found["stages_s"].items())
    overlap = "one after the other" if rates.gpu == "cpu" else "side by side"
    workers = f"{found['workers_busy']} of {rates.workers} workers ({rates.gpu})"
    tell(
        f"{found['scenes']} scenes, {found['views']} views in {found['units']} units\n"
        f"{size_text(found['stored_bytes'])} in {found['files']} files\n"
        f"{found['tflop']:.3g} TFLOP at {rates.tflops_per_worker:.3g} TFLOP/s a worker; ms a view, "
        f"{overlap}: {stages}; the {found['bound_by']} stage takes most\n"
        f"{span_text(found['wall_s'])} on {workers}, {span_text(found['load_s'])} of it before the "
        f"first view; {found['price']:.3g} {rates.currency} at {rates.price_per_worker_hour:g} "
        f"{rates.currency} an hour each (--tflops: `bench` measures yours)\n"
        f"each takes {found['cores_per_worker']:.1f} CPU cores, "
        f"{size_text(found['host_memory_bytes'])} of memory"
        + (
            f" and {size_text(found['gpu_memory_bytes'])} of the GPU's"
            if rates.gpu != "cpu"
            else ""
        )
        + f"\n{bucket_told(found['bucket'])}\n{found['break_even']['verdict']}\n"
        f"assumed: images of {found['assumed']['image']}, read and decoded in "
        f"{1000 * found['assumed']['decode_s_a_view']:.3g} ms of a core, as of 1296x968 JPEG; "
        f"weights at {found['assumed']['load_bytes_per_s'] / 1e9:.3g} GB/s; a store is read at "
        f"{rates.read_gb_per_s:.3g} GB/s and costs {rates.price_per_gb_month:.3g} "
        f"{rates.currency} a GB and month"
    )


def run_log(
    out: str, scenes: str, config: ExtractConfig, numerics: Numerics, run: RunConfig
) -> "RunLog":
    """Begin the log of a run beside its store."""
    from vega3d.pipeline.runlog import RunLog

    asked = {"scenes": scenes, "numerics": asdict(numerics), "run": asdict(run)}
    return RunLog(out, asked, as_toml(config, numerics, run))


@contextmanager
def closed_on_failure(*logs: "RunLog") -> Iterator[None]:
    """Show how a run goes, and close its logs where an error or an interrupt ends it."""
    try:
        with ExitStack() as shown:
            for log in logs:
                shown.enter_context(log.shown())
            yield
    except (UsageError, StoreError, CheckpointError):
        raise  # nothing was done, or nothing can be written: there is no run to speak of
    except BaseException as error:
        for log in logs:
            log.close(None, error)
        if isinstance(error, KeyboardInterrupt):
            raise interrupted() from None
        raise
