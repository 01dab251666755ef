"""`vega3d-train pretrain`: each command takes configs, calls one function, prints a result."""

import logging
from dataclasses import asdict
from typing import Annotated

import typer

from vega3d.pipeline.commands import check_out, print_result, resumable, run_app
from vega3d.pipeline.options import DryRun, Program
from vega3d.train.pretrain.config import GeneratorConfig, PretrainRun, SemanticConfig, TableConfig

app = Program("pretrain", "Train small models from scratch, in the published layouts.")

Out = Annotated[str, typer.Option(help="The run's folder; the same command goes on.")]


@app.callback()
def _options() -> None:
    """Train small models from scratch, in the published layouts."""
    logging.getLogger("vega3d.train.pretrain").setLevel(logging.INFO)


@app.command()
def generator(out: Out, config: GeneratorConfig, run: PretrainRun, dry_run: DryRun = False) -> None:
    """Train a small Wan, VAE and DiT, on clips of scenes."""
    check_out(out)
    if dry_run:
        print_result({"out": out, **asdict(config)})
        return
    from vega3d.train.pretrain.generator import pretrain_generator

    with resumable():
        print_result(pretrain_generator(out, config, run))


@app.command()
def semantic(out: Out, config: SemanticConfig, run: PretrainRun, dry_run: DryRun = False) -> None:
    """Train a small SigLIP, both halves, on views and the phrases of what they show."""
    check_out(out)
    if dry_run:
        print_result({"out": out, **asdict(config)})
        return
    from vega3d.train.pretrain.semantic import pretrain_semantic

    with resumable():
        print_result(pretrain_semantic(out, config, run))


@app.command(only=("scenes", "height", "width", "cache", "workers"))
def views(config: GeneratorConfig, run: PretrainRun) -> None:
    """Render or decode views into --cache, before several runs that share them."""
    from vega3d.train.pretrain.clips import fill_cache

    print_result(fill_cache(config, run))


@app.command()
def score(
    scenes: Annotated[str, typer.Argument(help="rooms:..., which the stores are made of.")],
    store: Annotated[list[str], typer.Option(help="NAME=STORE, one tap each; repeat.")],
    compare: Annotated[
        list[str], typer.Option(help="A,B: is A better? Names joined by + go together; repeat.")
    ],
    config: TableConfig,
) -> None:
    """Compare streams by probes of depth, normals and classes, with intervals over rooms."""
    from vega3d.train.pretrain.table import probe_table

    stores = dict(_pair(text, "=") for text in store)
    print_result(probe_table(scenes, stores, [_pair(text, ",") for text in compare], config))


def _pair(text: str, between: str) -> tuple[str, str]:
    first, found, second = text.partition(between)
    if not (first and found and second):
        raise typer.BadParameter(f"must be two names with {between!r} between, got {text!r}")
    return first, second


def main() -> None:
    """Run the command line."""
    run_app(app)
