"""`vega3d-extract`: each command turns options into configs, calls one function, prints a result.

The last line on stdout is one JSON object; progress and logs go to stderr. Exit codes: 0 done,
1 a bug, 2 wrong usage or a place that cannot be used, 3 done but some scenes failed, 130 and 143
interrupted (run the same command again to go on).
"""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.commands import (
    SOME_FAILED,
    USAGE,
    check_out,
    checked,
    exit_on_sigterm,
    interrupted,
    print_result,
    run_app,
    tell,
)
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.errors import CheckpointError, StoreError, UsageError
from vega3d.pipeline.extract_options import (
    DEFAULT,
    NUMERICS,
    RUN,
    BatchSize,
    Blocks,
    ContextOption,
    Device,
    DeviceOption,
    DryRun,
    Dtype,
    FitOption,
    Grid,
    ModelOption,
    NoiseSamples,
    NoiseSeed,
    Out,
    PerShard,
    PresetOption,
    PromptEmbeds,
    ResolutionOption,
    RunnerName,
    Sampling,
    SamplingOption,
    Scenes,
    StoreDtype,
    Threads,
    Timesteps,
    Views,
    configs,
    device_of,
)

if TYPE_CHECKING:
    from vega3d.pipeline.scenes.conventions import Poses
    from vega3d.pipeline.scenes.scene import SceneSource
    from vega3d.pipeline.store.units import Unit
    from vega3d.pipeline.worker import Runner, UnitResult

app = typer.Typer(
    name="vega3d-extract",
    help="Posed scenes in, features of a frozen video generator in a sharded Zarr store out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # square brackets are defaults here
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("vega3d"))
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version, and stop."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more to stderr.")] = False,
) -> None:
    """Posed scenes in, features in a sharded Zarr store out."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("vega3d").setLevel(logging.INFO)


@app.command()
def run(
    scenes: Scenes,
    out: Out,
    preset: PresetOption = DEFAULT.backbone.name,
    model: ModelOption = None,
    blocks: Blocks = None,
    timesteps: Timesteps = None,
    resolution: ResolutionOption = None,
    fit: FitOption = None,
    context: ContextOption = None,
    dtype: Dtype = None,
    noise_seed: NoiseSeed = None,
    noise_samples: NoiseSamples = None,
    grid: Grid = "14x14",
    store_dtype: StoreDtype = DEFAULT.store_dtype,
    views: Views = DEFAULT.num_views,
    sampling: SamplingOption = Sampling.UNIFORM,
    scenes_per_shard: PerShard = None,
    batch_size: BatchSize = NUMERICS.batch_size,
    threads: Threads = NUMERICS.threads,
    device: DeviceOption = Device.AUTO,
    runner: Annotated[RunnerName, typer.Option(help="In this process, or on Ray.")] = (
        RunnerName.INLINE
    ),
    address: Annotated[
        str, typer.Option(help="Ray: local starts one, auto finds this node's, or ray://host:port.")
    ] = RUN.address,
    workers: Annotated[int, typer.Option(help="Ray: actors, each with a model.")] = RUN.workers,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(help="Ray: GPUs an actor reserves. [default: 1 on cuda]", show_default=False),
    ] = None,
    cpus_per_worker: Annotated[
        float, typer.Option(help="Ray: CPU cores an actor reserves; may be a fraction.")
    ] = RUN.cpus_per_worker,
    attempts: Annotated[
        int, typer.Option(help="Ray: tries of a unit whose worker dies or hangs.")
    ] = RUN.attempts,
    unit_timeout_s: Annotated[
        float, typer.Option(help="Ray: a worker silent for so long is restarted.")
    ] = RUN.unit_timeout_s,
    wheel: Annotated[
        str, typer.Option(help="Ray: wheel of vega3d to ship to nodes that lack it.")
    ] = RUN.wheel,
    prompt_embeds: PromptEmbeds = "",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Recompute the units with failed scenes.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Extract the features of every scene; run the same command again to resume."""
    check_out(out)
    if scenes_per_shard is None:
        scenes_per_shard = _stored_scenes_per_shard(out)
    if runner is RunnerName.RAY and address != "local" and device is Device.AUTO:
        raise typer.BadParameter(
            "--device auto looks at this machine, not at the cluster's; say --device cuda or cpu"
        )
    config, numerics = configs(locals())
    on_gpu = numerics.device == "cuda"
    run_config = checked(
        RunConfig,
        runner=runner.value,
        address=address,
        workers=workers,
        gpus_per_worker=float(on_gpu) if gpus_per_worker is None else gpus_per_worker,
        cpus_per_worker=cpus_per_worker,
        attempts=attempts,
        unit_timeout_s=unit_timeout_s,
        wheel=wheel,
    )
    if dry_run:
        print_result(_estimated(scenes, config, {"workers": workers}))
        return
    if on_gpu and runner is RunnerName.INLINE:
        _check_gpu()
    summary = _extract(
        scenes, out, config, numerics, run_config, retry_failed=retry_failed, prompt=prompt_embeds
    )
    _report(summary)
    if summary["failures"] or summary["pending"]:
        raise typer.Exit(SOME_FAILED)


@app.command()
def plan(
    scenes: Scenes,
    preset: PresetOption = DEFAULT.backbone.name,
    model: ModelOption = None,
    blocks: Blocks = None,
    timesteps: Timesteps = None,
    resolution: ResolutionOption = None,
    fit: FitOption = None,
    context: ContextOption = None,
    dtype: Dtype = None,
    noise_seed: NoiseSeed = None,
    noise_samples: NoiseSamples = None,
    grid: Grid = "14x14",
    store_dtype: StoreDtype = DEFAULT.store_dtype,
    views: Views = DEFAULT.num_views,
    sampling: SamplingOption = Sampling.UNIFORM,
    scenes_per_shard: PerShard = None,
    batch_size: BatchSize = NUMERICS.batch_size,
    threads: Threads = NUMERICS.threads,
    device: DeviceOption = Device.AUTO,
    workers: Annotated[int, typer.Option(help="GPUs, or CPU workers.")] = 1,
    tflops: Annotated[
        float | None,
        typer.Option(help="TFLOP/s a worker keeps up. [default: 400, an H100]", show_default=False),
    ] = None,
    price_per_hour: Annotated[float, typer.Option(help="Of one worker, in your currency.")] = 3.0,
) -> None:
    """Say what a run would do and cost, without touching a pixel or writing a file."""
    config, _ = configs(locals())
    rates: dict[str, Any] = {"workers": workers, "price_per_worker_hour": price_per_hour}
    if tflops is not None:
        rates["tflops_per_worker"] = tflops
    found = _estimated(scenes, config, rates)
    if found["refused_scenes"]:
        print(
            f"{len(found['refused_scenes'])} scenes will fail, such as "
            f"{found['refused_scenes'][:3]}: {found['refused_because']}",
            file=sys.stderr,
        )
    print(
        f"{found['scenes']} scenes, {found['views']} views in {found['units']} units\n"
        f"{found['stored_bytes'] / 1e9:.3g} GB in {found['files']} files\n"
        f"{found['tflop']:.3g} TFLOP: {found['wall_hours']:.3g} hours and {found['price']:.3g} to "
        f"pay, on {workers} workers at {found['assumed']['tflops_per_worker']:g} TFLOP/s and "
        f"{price_per_hour:g} an hour each (--tflops: `bench` measures yours)\n"
        f"{found['break_even']['verdict']}",
        file=sys.stderr,
    )
    print_result(found)


@app.command()
def status(
    store: Annotated[str, typer.Argument(help="Folder or URL of the store.")],
    watch: Annotated[bool, typer.Option("--watch", help="Look again until it is done.")] = False,
    every_s: Annotated[float, typer.Option(help="Seconds between looks.")] = 5.0,
) -> None:
    """Say how far a store is, and which scenes failed for what reason."""
    from vega3d.pipeline.store.verify import status as read_status

    while True:
        found = read_status(store)
        for scene_id, reason in list(found["failures"].items())[:20]:
            print(f"failed {scene_id}: {reason}", file=sys.stderr)
        print(
            f"{found['committed']} committed, {len(found['failures'])} failed, "
            f"{found['pending']} pending of {found['scenes']} scenes, "
            f"{found['stored_bytes'] / 1e6:.1f} MB",
            file=sys.stderr,
        )
        if not watch or found["complete"]:
            break
        time.sleep(every_s)
    print_result(found)


@app.command()
def verify(
    store: Annotated[str, typer.Argument(help="Folder or URL of the store.")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compute some scenes anew; needs --scenes.")
    ] = False,
    scenes: Annotated[str, typer.Option(help="Where the scenes are, for --deep.")] = "",
    model: ModelOption = None,
    sample: Annotated[int, typer.Option(help="Scenes that --deep computes anew.")] = 2,
    repair: Annotated[
        bool, typer.Option("--repair", help="Take damaged units back; the next run redoes them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before repairing.")] = False,
) -> None:
    """Read every object again and compare it with its checksum."""
    from vega3d.pipeline.recompute import verify_deep
    from vega3d.pipeline.scenes.reading import read_scenes
    from vega3d.pipeline.store.verify import verify as verify_store

    if deep and not scenes:
        raise typer.BadParameter("--deep needs --scenes, where the store's scenes are")
    if repair and not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("--repair asks first; say --yes where nobody can answer")
        question = "Take back damaged units and remove what was never committed?"
        if not typer.confirm(question):
            raise typer.Exit(USAGE)
    verified = verify_store(store, repair=repair)
    found = asdict(verified)
    if deep:
        source = checked(read_scenes, scenes)
        checks = verify_deep(store, source, model=model, sample=sample)
        found["deep"] = [asdict(check) for check in checks]
    for line in verified.told():
        print(line, file=sys.stderr)
    print_result(found)
    if verified.faults or not all(check["passed"] for check in found.get("deep", [])):
        raise typer.Exit(SOME_FAILED)


@app.command()
def pack(
    scenes: Scenes,
    out: Annotated[str, typer.Option(help="Folder for the shards and their index.")],
    scenes_per_tar: Annotated[int, typer.Option(help="Scenes of one tar.")] = 8,
    dry_run: DryRun = False,
) -> None:
    """Write scenes as WebDataset shards with an index, from any layout that can be read."""
    check_out(out)
    from vega3d.pipeline.scenes.tars import pack as pack_scenes

    source = _source(scenes)
    if dry_run:
        entries = source.entries()
        print_result({"scenes": len(entries), "tars": -(-len(entries) // scenes_per_tar)})
        return
    packed = checked(pack_scenes, source, out, scenes_per_tar=scenes_per_tar)
    for scene_id, lines in packed["notes"].items():
        for line in lines:
            print(f"{scene_id}: {line}", file=sys.stderr)
    for scene in packed["failed"]:
        print(f"failed {scene['scene_id']}: {scene['reason']}", file=sys.stderr)
    print_result(packed)
    if packed["failed"]:
        raise typer.Exit(SOME_FAILED)


@app.command()
def check(
    scenes: Scenes,
    out: Annotated[str, typer.Option(help="Folder for a picture a scene; none without.")] = "",
    views: Annotated[int, typer.Option(help="Views looked at of a scene; 0: all.")] = 32,
    num_scenes: Annotated[int, typer.Option(help="Scenes, spread over all; 0: all.")] = 0,
    sampling: SamplingOption = Sampling.UNIFORM,
    poses: Annotated[
        str, typer.Option(help="What the poses are: opencv, opengl, inverse, opengl-inverse.")
    ] = "opencv",
    depth_scale: Annotated[float, typer.Option(help="Factor that makes depth metres.")] = 1.0,
) -> None:
    """Say whether scenes prove their own geometry; costs no GPU and needs no model."""
    from vega3d.pipeline.check import CheckConfig, check_and_tell
    from vega3d.pipeline.scenes.reading import read_scenes

    if out:
        check_out(out)
    config = checked(
        CheckConfig,
        num_views=views,
        num_scenes=num_scenes,
        sampling=sampling.value,
        poses=cast("Poses", poses),
        depth_scale=depth_scale,
    )
    found = check_and_tell(checked(read_scenes, scenes), config, out=out)
    print_result(found)
    if found["to_mend"]:
        raise typer.Exit(SOME_FAILED)


@app.command("import")
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, help="safetensors files, one a scene: features.<tap>, ..."),
    ],
    out: Out,
    source: Annotated[str, typer.Option(help="Name of what made them; part of the config.")],
    scenes_per_shard: Annotated[int, typer.Option(help="Scenes of one file.")] = 1,
    store_dtype: StoreDtype = DEFAULT.store_dtype,
    dry_run: DryRun = False,
) -> None:
    """Bring features that were computed elsewhere into a store of the same contract."""
    check_out(out)
    from vega3d.pipeline.imports import import_arrays, read_scene_arrays
    from vega3d.pipeline.store.verify import status as read_status

    if dry_run:
        print_result({"scenes": len(files), "out": out})
        return
    import_arrays(
        out,
        [read_scene_arrays(str(path)) for path in files],
        model=source,
        scenes_per_shard=scenes_per_shard,
        store_dtype=store_dtype,
    )
    found = read_status(out)
    print_result(found)
    if found["failures"]:
        raise typer.Exit(SOME_FAILED)


@app.command()
def pictures(
    stores: Annotated[list[str], typer.Argument(help="Stores of the same scenes.")],
    out: Annotated[str, typer.Option(help="Folder for the PNGs.")],
    num_views: Annotated[int, typer.Option(help="Views of a picture at most.")] = 6,
    num_scenes: Annotated[int, typer.Option(help="Scenes at most; 0: all.")] = 16,
) -> None:
    """Draw, for each scene, its views beside the joint PCA of their features."""
    check_out(out)
    from vega3d.pipeline.pictures import write_pictures
    from vega3d.pipeline.store.store import open_store

    opened = [open_store(store) for store in stores]
    written = write_pictures(opened, out, num_views=num_views, num_scenes=num_scenes)
    print_result({"pictures": [str(path) for path in written]})


@app.command()
def bench(
    full: Annotated[
        bool, typer.Option("--full", help="The published 1.3B sizes with random weights (8 GB).")
    ] = False,
    threads: Threads = NUMERICS.threads,
    device: DeviceOption = Device.AUTO,
    repeats: Annotated[int, typer.Option(help="Measured passes after one warm-up.")] = 3,
) -> None:
    """Measure this machine: seconds and peak memory a view, TFLOP/s for `plan --tflops`."""
    from vega3d.pipeline.bench import bench as measure

    numerics = checked(Numerics, threads=threads, device=device_of(device))
    print_result(measure(numerics, full=full, repeats=repeats))


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="Folder for everything the demo makes.")] = "demo-output",
    workers: Annotated[int, typer.Option(help="Ray workers.")] = 2,
) -> None:
    """Extract, score and train on procedural rooms with tiny checkpoints; needs no download."""
    from vega3d.cluster.connecting import connection
    from vega3d.evaluate.report import report as write_report
    from vega3d.pipeline.demo import run_demo
    from vega3d.train.config import RunConfig as TrainRun
    from vega3d.train.config import TrainConfig
    from vega3d.train.fitting import fit

    on_ray = checked(RunConfig, runner="ray", workers=workers, cpus_per_worker=0.5)
    with connection(on_ray):  # one start of Ray for both stores
        made = run_demo(out, partial(_extract, run_config=on_ray))
    scored = write_report(
        [f"prior={made['prior']}", f"semantic={made['semantic']}"], f"{out}/consistency"
    )
    fit(
        made["prior"],
        made["semantic"],
        f"{out}/fusion",
        TrainConfig(steps=80, hidden_dim=64),
        TrainRun(eval_every=10, log_every=5),
    )
    made |= {"consistency": str(scored.html), "fusion": f"{out}/fusion/report.html"}
    print(
        f"\nprior features:     {made['prior']}\nsemantic features:  {made['semantic']}\n"
        f"Now look at\n"
        f"  pictures of them   {made['pictures'][0]} and its neighbours\n"
        f"  consistency        {made['consistency']}\n"
        f"  a trained fusion   {made['fusion']}",
        file=sys.stderr,
    )
    print_result(made)


def main() -> None:
    """Run the command line; maps our errors to exit codes."""
    exit_on_sigterm()
    run_app(app)


def _extract(
    scenes: str,
    out: str,
    config: ExtractConfig,
    numerics: Numerics,
    run_config: RunConfig,
    *,
    retry_failed: bool = False,
    prompt: str = "",
) -> dict[str, Any]:
    """Compose source, runner, progress and log, and extract."""
    from vega3d.pipeline.extract import extract
    from vega3d.pipeline.progress import Progress
    from vega3d.pipeline.runlog import RunLog

    source = _source(scenes)
    tell(f"{scenes}: {len(source.entries())} scenes -> {out}")
    settings = {"scenes": scenes, "numerics": asdict(numerics), "run": asdict(run_config)}
    log = RunLog(out, settings)
    with Progress() as progress:

        def on_result(result: "UnitResult", units: "Sequence[Unit]") -> None:
            log.unit(result)
            progress.show(result, units)

        try:
            summary = extract(
                source,
                out,
                config,
                numerics=numerics,
                run=_runner(run_config),
                retry_failed=retry_failed,
                prompt_embeds=prompt,
                on_result=on_result,
            )
        except KeyboardInterrupt as error:
            log.close(None, error)
            raise interrupted() from None
        except (UsageError, StoreError, CheckpointError):
            raise  # nothing was done, or nothing can be written: there is no run to speak of
        except BaseException as error:
            log.close(None, error)
            raise
    log.close(summary)
    return asdict(summary)


def _source(scenes: str) -> "SceneSource":
    """Find the scenes, and name what lies there and is not read."""
    from vega3d.pipeline.scenes.reading import read_scenes
    from vega3d.pipeline.scenes.scene import skipped

    source = checked(read_scenes, scenes)
    for one in skipped(source):
        print(f"not read: {one.place} {one.reason}", file=sys.stderr)
    return source


def _stored_scenes_per_shard(out: str) -> int | None:
    """Return what a store that is there was made with, so that its default follows no device."""
    from vega3d.pipeline.store.store import stored_attributes

    attributes = stored_attributes(out)
    if attributes is None:
        return None
    return int(attributes["identity"]["config"].get("scenes_per_shard", 1))


def _check_gpu() -> None:
    """Refuse before there is a store that says cuda."""
    if device_of(Device.AUTO) != "cuda":
        raise typer.BadParameter(
            "device cuda is asked for, but torch sees no GPU here; use --device cpu"
        )


def _runner(config: RunConfig) -> "Runner":
    from vega3d.pipeline.worker import run_inline

    if config.runner == "inline":
        return partial(run_inline, config=config)
    from vega3d.cluster.ray_runner import run_ray

    return partial(run_ray, config=config)


def _estimated(scenes: str, config: ExtractConfig, rates: dict[str, Any]) -> dict[str, Any]:
    from vega3d.pipeline.backbones.checkpoints import planned_facts
    from vega3d.pipeline.estimate import Rates, estimate
    from vega3d.pipeline.plan import plan_units

    entries = _source(scenes).entries()
    planned = plan_units(
        entries, num_views=config.num_views, scenes_per_shard=config.scenes_per_shard
    )
    return estimate(
        planned,
        config,
        planned_facts(config.backbone),
        checked(Rates, **rates),
        source_bytes=sum(entry.size_bytes for entry in entries),
    )


def _report(summary: dict[str, Any]) -> None:
    """Tell a person how it went, then print the summary."""
    for scene_id, reason in list(summary["failures"].items())[:20]:
        tell(f"failed {scene_id}: {reason}")
    if summary["failures"]:
        print("when they are mended, run with --retry-failed", file=sys.stderr)
    for scene_id, reason in list(summary["postponed"].items())[:20]:
        tell(f"left for the next run {scene_id}: {reason}")
    print(
        f"{summary['committed']} of {summary['scenes']} scenes in {summary['store']} "
        f"({summary['stored_bytes'] / 1e6:.1f} MB, {summary['wall_s']:.1f} s)",
        file=sys.stderr,
    )
    print_result(summary)
