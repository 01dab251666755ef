"""`vega3d-consistency`: turns options into configs, calls `report`, prints one JSON line.

Exit codes: 0 done, 1 a bug, 2 wrong usage or nothing to score, 3 done but some stores or scenes
could not take part, 130 and 143 interrupted (run the same command again to go on).
"""

import logging
import sys
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer

from vega3d.evaluate.config import ReportConfig, RunConfig
from vega3d.pipeline.commands import (
    SOME_FAILED,
    check_out,
    checked,
    exit_on_sigterm,
    interrupted,
    print_result,
    run_app,
)
from vega3d.pipeline.errors import StoreError, UsageError

DEFAULT, RUN = ReportConfig(), RunConfig()

app = typer.Typer(
    name="vega3d-consistency",
    help="How well features of feature stores agree across views of the same 3D point, and what "
    "that is worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # square brackets are defaults here
)


class Anchor(StrEnum):
    """Where the voxel grid starts."""

    ORIGIN = "origin"
    MINIMUM = "minimum"


class Pairs(StrEnum):
    """Which views are compared."""

    ALL = "all"
    ADJACENT = "adjacent"


class Position(StrEnum):
    """Where a token lies."""

    MEDIAN = "median"
    CENTER = "center"


class Scheduler(StrEnum):
    """Dask's local schedulers."""

    THREADS = "threads"
    PROCESSES = "processes"
    SYNCHRONOUS = "synchronous"


POSITION, ANCHOR = Position(DEFAULT.position), Anchor(DEFAULT.score.anchor)
PAIRS, SCHEDULER = Pairs(DEFAULT.score.pairs), Scheduler(RUN.scheduler)


@app.callback()
def _commands() -> None:
    """Keep `report` a command of its own."""


@app.command()
def report(
    stores: Annotated[
        list[str],
        typer.Argument(help="Stores, each as a path or URL, or LABEL=PATH; one label: one store."),
    ],
    out: Annotated[str, typer.Option(help="Folder of report.html, report.json and scores.csv.")],
    downstream: Annotated[
        str,
        typer.Option(help="Results table (CSV: model, metrics...), or `paper` for its Table 4."),
    ] = "",
    scene: Annotated[list[str] | None, typer.Option(help="Scene to draw; may be repeated.")] = None,
    voxel_m: Annotated[float, typer.Option(help="Edge of a voxel, metres.")] = DEFAULT.voxel_m,
    min_depth_share: Annotated[
        float, typer.Option(help="Share of a token's pixels that need depth.")
    ] = DEFAULT.min_depth_share,
    position: Annotated[
        Position, typer.Option(help="A token lies at the median of its pixels, or the centre's.")
    ] = POSITION,
    anchor: Annotated[
        Anchor, typer.Option(help="Voxels count from the world's origin or the scene's minimum.")
    ] = ANCHOR,
    pairs: Annotated[
        Pairs, typer.Option(help="Compare every two views, or neighbours only.")
    ] = PAIRS,
    trim_channels: Annotated[
        int, typer.Option(help="Channels the trimmed treatment drops.")
    ] = DEFAULT.score.trim_channels,
    matching_view_pairs: Annotated[
        int, typer.Option(help="View pairs a scene for AUROC and recall; 0: neither.")
    ] = DEFAULT.score.matching_view_pairs,
    bootstrap_samples: Annotated[
        int, typer.Option(help="Resamples of the scenes.")
    ] = DEFAULT.bootstrap_samples,
    scheduler: Annotated[Scheduler, typer.Option(help="Dask's local scheduler.")] = SCHEDULER,
    workers: Annotated[int, typer.Option(help="Local workers; 0: one a core.")] = RUN.workers,
    dask_address: Annotated[
        str, typer.Option(help="Use a distributed cluster, such as tcp://host:8786.")
    ] = RUN.dask_address,
    scenes_shown: Annotated[int, typer.Option(help="Scenes to draw.")] = RUN.scenes_shown,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be compared, and read no features.")
    ] = False,
) -> None:
    """Score stores side by side; run the same command again to resume."""
    check_out(out)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    config = checked(
        replace,
        DEFAULT,
        voxel_m=voxel_m,
        min_depth_share=min_depth_share,
        position=position.value,
        bootstrap_samples=bootstrap_samples,
        score=checked(
            replace,
            DEFAULT.score,
            anchor=anchor.value,
            pairs=pairs.value,
            trim_channels=trim_channels,
            matching_view_pairs=matching_view_pairs,
        ),
    )
    run = checked(
        replace,
        RUN,
        scheduler=scheduler.value,
        workers=workers,
        dask_address=dask_address,
        scenes_shown=scenes_shown,
    )
    if dry_run:
        print_result(_plan(stores))
        return
    from vega3d.evaluate.report import report as write
    from vega3d.evaluate.summary import remarks

    try:
        done = write(stores, out, config, run, downstream=downstream, scenes=scene or ())
    except KeyboardInterrupt:
        raise interrupted() from None
    for line in remarks(done.summary):
        sys.stderr.write(f"{line}\n")
    print_result(done.result())
    if done.summary.refused or done.summary.left_out:
        raise typer.Exit(SOME_FAILED)


def main() -> None:
    """Run the command line; maps our errors to exit codes."""
    exit_on_sigterm()
    run_app(app, mendable=(UsageError, StoreError))  # any other is a bug here


def _plan(stores: list[str]) -> dict[str, Any]:
    from vega3d.evaluate.sources import open_sources, plan_comparison

    comparison = plan_comparison(open_sources(stores))
    return {
        "stores": {s.label: {"taps": s.taps, "digest": s.digest} for s in comparison.sources},
        "scenes": len(comparison.views),
        "views": sum(len(views) for views in comparison.views.values()),
        "refused": dict(comparison.refused),
        "left_out": dict(comparison.left_out),
        "notes": comparison.notes,
    }
