"""`vega3d-train pretrain`: each command takes configs, calls one function, prints a result."""

import logging
from typing import Annotated

import typer

from vega3d.pipeline.commands import check_out, print_result, resumable, run_app
from vega3d.pipeline.options import Program
from vega3d.train.pretrain.config import GeneratorConfig, PretrainRun, SemanticConfig

app = Program("pretrain", "Train small models from scratch, in the published layouts.")

Out = Annotated[str, typer.Option(help="The run's folder; the same command goes on.")]


@app.callback()
def _options() -> None:
    """Train small models from scratch, in the published layouts."""
    logging.getLogger("vega3d.train.pretrain").setLevel(logging.INFO)


@app.command()
def generator(out: Out, config: GeneratorConfig, run: PretrainRun) -> None:
    """Train a small Wan, VAE and DiT, on clips of scenes."""
    check_out(out)
    from vega3d.train.pretrain.generator import pretrain_generator

    with resumable():
        print_result(pretrain_generator(out, config, run))


@app.command()
def semantic(out: Out, config: SemanticConfig, run: PretrainRun) -> None:
    """Train a small SigLIP, both halves, on views and the phrases of what they show."""
    check_out(out)
    from vega3d.train.pretrain.semantic import pretrain_semantic

    with resumable():
        print_result(pretrain_semantic(out, config, run))


def main() -> None:
    """Run the command line."""
    run_app(app)
