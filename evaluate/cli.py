"""`vega3d-consistency`: takes configs, calls `report` or `probe`, prints one JSON line.

Exit codes: 0 done, 1 a bug, 2 wrong usage or nothing to score, 3 done but some stores or scenes
could not take part, 130 and 143 interrupted (run the same command again to go on).
"""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from vega3d.evaluate.config import ExploreConfig, ReportConfig, RunConfig, TapsConfig
from vega3d.evaluate.probes.config import ProbeConfig
from vega3d.pipeline.commands import (
    SOME_FAILED,
    check_out,
    exit_on_sigterm,
    print_result,
    resumable,
    run_app,
)
from vega3d.pipeline.errors import StoreError, UsageError
from vega3d.pipeline.options import Program, Version
from vega3d.pipeline.texts import start_logging, tell, tell_some

app = Program(
    "vega3d-consistency",
    "How well features of feature stores agree across views of the same 3D point, and what that "
    "is worth.",
)


@app.callback()
def _options(_version: Version = False) -> None:
    """How well features of feature stores agree across views, and what that is worth."""


_Stores = Annotated[
    list[str],
    typer.Argument(
        metavar="STORES",
        help="Stores, each as a path or URL, or LABEL=PATH; one label: one store.",
    ),
]


_Scene = Annotated[
    list[str] | None,
    typer.Option(help="Scene to draw, may be repeated; a few without it."),
]


_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be compared, and read no features.")
]


@app.command()
def report(
    stores: _Stores,
    out: Annotated[str, typer.Option(help="Folder of report.html, report.json and scores.csv.")],
    config: ReportConfig,
    chosen: TapsConfig,
    run: RunConfig,
    downstream: Annotated[
        str,
        typer.Option(help="Results table (CSV: model, metrics...), or `paper` for its Table 4."),
    ] = "",
    scene: _Scene = None,
    dry_run: _DryRun = False,
) -> None:
    """Score stores side by side; run the same command again to resume."""
    if _begun(out, stores, chosen, dry_run=dry_run):
        return
    from vega3d.evaluate.report import report as write
    from vega3d.evaluate.summary import remarks

    with resumable():
        done = write(stores, out, config, run, chosen, downstream=downstream, scenes=scene or ())
    for line in remarks(done.summary):
        tell(line)
    print_result(done.result())
    if done.summary.refused or done.summary.left_out:
        raise typer.Exit(SOME_FAILED)


@app.command()
def probe(
    stores: _Stores,
    out: Annotated[str, typer.Option(help="Folder of probe.html and probe.json.")],
    config: ProbeConfig,
    chosen: TapsConfig,
    labels: Annotated[
        str,
        typer.Option(help="Classes of tokens: a label store, or the rooms:N that the stores show."),
    ] = "",
    dry_run: _DryRun = False,
) -> None:
    """Say what simple maps read from the features; run the same command again to resume."""
    if _begun(out, stores, chosen, dry_run=dry_run):
        return
    from vega3d.evaluate.partials import Partials
    from vega3d.evaluate.probes.page import probe_result, write_probe
    from vega3d.evaluate.probes.probe import probe as read

    kept = Partials(Path(out) / "partials")
    with resumable():
        summary = read(stores, config, chosen, labels=labels, kept=kept)
    html, plain = write_probe(Path(out), summary)
    comparison = summary.comparison
    print_result(
        {
            "probe": str(html),
            "json": str(plain),
            "scenes": len(comparison.views),
            "rows": probe_result(summary),
            "refused": dict(comparison.refused),
            "left_out": len(comparison.left_out),
        }
    )
    if comparison.refused or comparison.left_out:
        raise typer.Exit(SOME_FAILED)


@app.command()
def explore(
    stores: _Stores,
    out: Annotated[str, typer.Option(help="Folder of explore.html and explore.json.")],
    config: ExploreConfig,
    chosen: TapsConfig,
    scene: _Scene = None,
    dry_run: _DryRun = False,
) -> None:
    """Write a page on which to point at a token and see what stores find similar in other views."""
    if _begun(out, stores, chosen, dry_run=dry_run):
        return
    from vega3d.evaluate.exploring import explore as write

    done = write(stores, out, config, chosen, scene or ())
    refused = dict(done.comparison.refused)
    lines = [f"note: {note}" for note in done.notes]
    lines += [f"refused {label}: {reason}" for label, reason in refused.items()]
    lines += [f"left out {scene_id}: {reason}" for scene_id, reason in done.left_out.items()]
    tell_some(lines)
    print_result(
        {
            "explore": str(done.html),
            "scenes": [one["scene"] for one in done.scenes],
            "refused": refused,
            "left_out": done.left_out,
        }
    )
    if refused or done.left_out:
        raise typer.Exit(SOME_FAILED)


def main() -> None:
    """Run the command line; maps our errors to exit codes."""
    exit_on_sigterm()
    run_app(app, mendable=(UsageError, StoreError))  # any other is a bug here


def _begun(out: str, stores: list[str], chosen: TapsConfig, *, dry_run: bool) -> bool:
    """Begin a command; say whether that is all, for it was only to say what it would do.

    Raises:
        UsageError: Nothing can be written there, or it is a store, which is no place for pages.
    """
    check_out(out)
    if (Path(out) / "zarr.json").exists():
        raise UsageError(f"{out} is a store; choose another --out")
    start_logging(logging.INFO, "%(message)s")
    if dry_run:
        print_result(_plan(stores, chosen))
    return dry_run


def _plan(stores: list[str], chosen: TapsConfig) -> dict[str, Any]:
    from vega3d.evaluate.sources import open_sources, plan_comparison

    comparison = plan_comparison(open_sources(stores, chosen))
    return {
        "stores": {s.label: {"taps": s.taps, "digest": s.digest} for s in comparison.sources},
        "scenes": len(comparison.views),
        "views": sum(len(views) for views in comparison.views.values()),
        "refused": dict(comparison.refused),
        "left_out": dict(comparison.left_out),
        "notes": comparison.notes,
    }
