"""Commands on extraction: `run`, `plan`, `backbones`, `bench`.

Standard library and typer only, until one runs.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.cli_running import (
    by_device,
    by_machine,
    check_device,
    closed_on_failure,
    estimated,
    is_unfinished,
    rates_here,
    run_log,
    runner,
    tell_estimate,
    tell_summary,
)
from vega3d.pipeline.cli_scenes import Scenes, find_scenes
from vega3d.pipeline.cli_together import SEVERAL, SEVERAL_PLANS
from vega3d.pipeline.commands import SOME_FAILED, check_out, print_result
from vega3d.pipeline.config import ExtractConfig, Rates, RunConfig
from vega3d.pipeline.options import DryRun, Program
from vega3d.pipeline.texts import tell

if TYPE_CHECKING:
    from vega3d.pipeline.results import UnitResult
    from vega3d.pipeline.store.units import Unit

app = Program()


_PromptEmbeds = Annotated[
    str, typer.Option(help="safetensors file of the empty prompt's rows: spares the text encoder.")
]
_RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Recompute the units with failed scenes.")
]
_Refresh = Annotated[
    bool, typer.Option("--refresh", help="Recompute the scenes whose source has changed.")
]


@app.command(fill=by_device, several=SEVERAL)
def run(
    scenes: Scenes,
    out: Annotated[str, typer.Option(help="Folder or URL (s3://...) of the store.")],
    config: ExtractConfig,
    numerics: Numerics,
    run: RunConfig,
    prompt_embeds: _PromptEmbeds = "",
    retry_failed: _RetryFailed = False,
    refresh: _Refresh = False,
    dry_run: DryRun = False,
) -> None:
    """Extract the features of every scene; run the same command again to resume."""
    if dry_run:
        print_result(estimated(scenes, config, rates_here(config, numerics, run.workers), numerics))
        return
    summary = extract_to(
        scenes, out, config, numerics, run, retry_failed, prompt_embeds, refresh=refresh
    )
    tell_summary(summary)
    print_result(summary)
    if is_unfinished(summary):
        raise typer.Exit(SOME_FAILED)


@app.command(fill=by_machine, several=SEVERAL_PLANS)
def plan(scenes: Scenes, config: ExtractConfig, numerics: Numerics, rates: Rates) -> None:
    """Say what a run would do and cost, without touching a pixel or writing a file."""
    found = estimated(scenes, config, rates, numerics)
    tell_estimate(found, rates)
    print_result(found)


@app.command()
def backbones() -> None:
    """List the encoders that --backbone takes; `run --backbone NAME --help` shows their options."""
    from vega3d.pipeline.backbone_table import backbone_rows, backbone_table

    rows = backbone_rows()
    for line in backbone_table(rows):
        tell(line)
    print_result({"backbones": rows})


_BENCHED = ("backbone", "model", "dtype", "resolution", "timesteps", "threads", "device",
            "batch_size", "compile")  # fmt: skip


@app.command(only=_BENCHED, fill=by_device)
def bench(
    config: ExtractConfig,
    numerics: Numerics,
    full: Annotated[
        bool, typer.Option("--full", help="All blocks of the 1.3B sizes (8 GB), not two, scaled.")
    ] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Measured passes after one warm-up.")] = 2,
) -> None:
    """Measure this machine, stage by stage, beside diffusers' own way; `plan` goes by the table."""
    from vega3d.pipeline.bench import bench as measure
    from vega3d.pipeline.bench import save, table

    found = measure(config, numerics, full=full, repeats=repeats)
    for line in table(found):
        tell(line)
    print_result({**found, "saved": save(found, config, numerics)})


def extract_to(
    scenes: str,
    out: str,
    config: ExtractConfig,
    numerics: Numerics,
    run: RunConfig,
    retry_failed: bool = False,
    prompt_embeds: str = "",
    *,
    refresh: bool = False,
) -> dict[str, Any]:
    """Compose source, runner, progress and log, and extract."""
    check_out(out)
    check_device(numerics, run)
    from vega3d.pipeline.backbones.checkpoints import named_from_root
    from vega3d.pipeline.backbones.readers import naming_the_encoder
    from vega3d.pipeline.extract import extract
    from vega3d.pipeline.progress import Progress

    config = replace(config, backbone=named_from_root(config.backbone))
    source = find_scenes(scenes)
    tell(f"{scenes}: {len(source.entries())} scenes -> {out}")
    log = run_log(out, scenes, config, numerics, run)
    with Progress() as progress:

        def on_result(result: "UnitResult", units: "Sequence[Unit]") -> None:
            log.unit(result)
            progress.show(result, units)

        with closed_on_failure(log), naming_the_encoder(config.backbone):
            summary = extract(
                source,
                out,
                config,
                numerics=numerics,
                run=runner(run),
                retry_failed=retry_failed,
                refresh=refresh,
                prompt_embeds=prompt_embeds,
                gpu_share=run.gpu_share,
                on_result=on_result,
            )
    summary = log.with_figures(summary)
    log.close(summary)
    return asdict(summary)
