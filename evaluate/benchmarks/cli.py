"""`vega3d-benchmark`: official metrics of prediction files, files made of rooms, encoders compared.

Exit codes: 0 done, 1 a bug, 2 wrong usage or a malformed file, 3 done, but some encoders or scenes
gave nothing and are named.
"""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from vega3d.evaluate.benchmarks.config import BENCHMARKS, MakingConfig, ScoringConfig
from vega3d.evaluate.encoders.config import EncodersConfig
from vega3d.evaluate.probes.config import ProbeConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.cli_running import by_device
from vega3d.pipeline.commands import (
    SOME_FAILED,
    check_out,
    exit_on_sigterm,
    print_result,
    resumable,
    run_app,
)
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.options import DryRun, Program, Version
from vega3d.pipeline.settings import FILE, as_toml
from vega3d.pipeline.texts import start_logging, tell
from vega3d.train.paper.config import PaperConfig
from vega3d.train.robots.config import RolloutConfig

app = Program(
    "vega3d-benchmark",
    "Score predictions with official metrics, and make benchmark files of procedural rooms.",
)


@app.callback()
def _options(_version: Version = False) -> None:
    """Score predictions with official metrics, and make benchmark files of procedural rooms."""


@app.command()
def score(
    name: Annotated[
        str,
        typer.Argument(help=f"{', '.join(BENCHMARKS[:-1])} or {BENCHMARKS[-1]}."),
    ],
    predictions: Annotated[str, typer.Argument(help="JSON or JSON lines, a record a query.")],
    config: ScoringConfig,
    annotations: Annotated[
        str, typer.Option(help="The benchmark's own file; libero's episodes need none.")
    ] = "",
    against: Annotated[
        str, typer.Option(help="Another prediction file, compared with a paired test.")
    ] = "",
    out: Annotated[
        str, typer.Option(help="Folder for score.json, score.html and config.toml.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the table, and write nothing.")
    ] = False,
) -> None:
    """Print a benchmark's table for a file of predictions; write JSON and a page with --out."""
    start_logging(logging.WARNING, "%(message)s")
    if out:
        check_out(out)
    from vega3d.evaluate.benchmarks import page
    from vega3d.evaluate.benchmarks.catalogue import score as score_file
    from vega3d.evaluate.benchmarks.measures import compare, intervals

    resampling = {"samples": config.bootstrap_samples, "seed": config.bootstrap_seed}
    scored = score_file(name, annotations, predictions, config.protocol)
    between = intervals(scored, **resampling)
    differences = (
        compare(scored, score_file(name, annotations, against, config.protocol), **resampling)
        if against
        else {}
    )
    tell(page.table(scored, between, differences).rstrip("\n"))
    result: dict[str, Any] = page.as_json(scored, between, differences)
    if out and not dry_run:
        result |= page.write(scored, between, differences, out, worst=config.worst)
        write_whole(Path(out) / FILE, as_toml(config).encode())
    print_result(result)


@app.command()
def desk(
    out: Annotated[str, typer.Option(help="Folder of paper.html, paper.json and all behind them.")],
    config: PaperConfig,
    dry_run: DryRun = False,
) -> None:
    """Ask the paper's questions of the desk models; run the same command again to go on."""
    check_out(out)
    start_logging(logging.INFO, "%(message)s")
    if dry_run:
        sized = config.sized()
        print_result({"out": out, "scenes": sized.scenes(), "maps": sized.scenes(maps=True)})
        return
    from vega3d.train.paper.paper import write_paper

    with resumable():
        result = write_paper(out, config)
    print_result(result)


@app.command(fill=by_device)
def encoders(
    scenes: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENES", help="Folders, shards or rooms:N; each, or NAME=PLACE, is a section."
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder of encoders.html and all behind it.")],
    config: EncodersConfig,
    probing: ProbeConfig,
    numerics: Numerics,
    dry_run: DryRun = False,
) -> None:
    """Extract, score and probe every encoder side by side; run the same command again to go on."""
    check_out(out)
    start_logging(logging.WARNING, "%(message)s")
    logging.getLogger("vega3d").setLevel(logging.INFO)
    from vega3d.evaluate.encoders.choosing import told_of
    from vega3d.evaluate.encoders.comparison import compare_encoders

    if dry_run:
        print_result({"scenes": scenes, "encoders": told_of(config)})
        return
    with resumable():
        result = compare_encoders(scenes, out, config, numerics, probing=probing)
    print_result(result)
    if result["failed"]:
        raise typer.Exit(SOME_FAILED)


@app.command()
def make(
    scenes: Annotated[
        str,
        typer.Argument(
            help="rooms:N, with the options that features are extracted with; or picking:N, "
            "N demonstrations a task of a small robot scene in LIBERO's HDF5 layout "
            "(picking:50?height=128&width=160&noise=0.2)."
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder for the files.")],
    config: MakingConfig,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the questions, and write nothing.")
    ] = False,
) -> None:
    """Write benchmark files of rooms in the published formats, or a robot's demonstrations."""
    start_logging(logging.WARNING, "%(message)s")
    check_out(out)
    if scenes.startswith("picking:"):
        from vega3d.train.robots.making import make_demonstrations

        print_result(make_demonstrations(scenes, out, config.seed, dry_run=dry_run))
        return
    from vega3d.evaluate.benchmarks.made.making import make as make_files

    print_result(make_files(scenes, out, config, dry_run=dry_run))


@app.command()
def libero(
    policy: Annotated[str, typer.Argument(help="Folder of a run of the task action.")],
    out: Annotated[
        str, typer.Option(help="Folder of episodes.jsonl, videos, score.json and score.html.")
    ],
    config: RolloutConfig,
    dry_run: DryRun = False,
) -> None:
    """Roll a trained policy out in a simulator, extraction online; the same command goes on."""
    start_logging(logging.WARNING, "%(message)s")
    logging.getLogger("vega3d.train.robots").setLevel(logging.INFO)
    check_out(out)
    from vega3d.train.robots.making import roll_out_run

    with resumable():
        result = roll_out_run(policy, out, config, dry_run=dry_run)
    print_result(result)


def main() -> None:
    """Run the command line; maps our errors to exit codes."""
    exit_on_sigterm()
    run_app(app)
