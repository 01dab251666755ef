"""`vega3d-train pretrain`: options into configs, one call, one line of JSON."""

import dataclasses
import logging
from typing import Annotated

import typer

from vega3d.pipeline.commands import checked, interrupted, print_result
from vega3d.train.pretrain.config import GeneratorConfig, PretrainRun, SemanticConfig

GENERATOR = GeneratorConfig()
SEMANTIC = SemanticConfig()
RUN = PretrainRun()

app = typer.Typer(
    help="Train small models from scratch, in the published layouts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Out = Annotated[str, typer.Option(help="The run's folder; the same again goes on.")]
Threads = Annotated[int, typer.Option(help="Threads of torch on the CPU.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Seed = Annotated[int, typer.Option(help="Of weights, batches and noise.")]
Cache = Annotated[str, typer.Option(help="Folder of decoded views that runs share.")]
Amp = Annotated[bool, typer.Option(help="Matrix products in bfloat16.")]


def _logs() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


@app.command()
def generator(
    out: Out,
    scenes: Annotated[str, typer.Option(help="Where clips come from.")] = GENERATOR.scenes,
    choose: Annotated[str, typer.Option(help="Scored while training.")] = GENERATOR.choose,
    steps: Annotated[int, typer.Option(help="Of the DiT.")] = GENERATOR.transformer.steps,
    cooldown: Annotated[
        int, typer.Option(help="Last steps, with a falling rate.")
    ] = GENERATOR.transformer.cooldown,
    decoder_steps: Annotated[int, typer.Option(help="Of the decoder.")] = GENERATOR.decoder.steps,
    seed: Seed = GENERATOR.seed,
    amp: Amp = GENERATOR.amp,
    device: Device = RUN.device,
    threads: Threads = RUN.threads,
    cache: Cache = RUN.cache,
) -> None:
    """Train a small Wan, VAE and DiT, on clips of scenes."""
    _logs()
    config = checked(
        dataclasses.replace,
        GENERATOR,
        scenes=scenes,
        choose=choose,
        seed=seed,
        amp=amp,
        transformer=checked(
            dataclasses.replace, GENERATOR.transformer, steps=steps, cooldown=cooldown
        ),
        decoder=checked(
            dataclasses.replace, GENERATOR.decoder, steps=decoder_steps, cooldown=decoder_steps // 2
        ),
    )
    run = checked(PretrainRun, device=device, threads=threads, cache=cache)
    from vega3d.train.pretrain.generator import pretrain_generator

    try:
        print_result(pretrain_generator(out, config, run))
    except KeyboardInterrupt:
        raise interrupted() from None


@app.command()
def semantic(
    out: Out,
    scenes: Annotated[str, typer.Option(help="Where pictures come from.")] = SEMANTIC.scenes,
    choose: Annotated[str, typer.Option(help="Scored while training.")] = SEMANTIC.choose,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = SEMANTIC.recipe.steps,
    cooldown: Annotated[
        int, typer.Option(help="Last steps, with a falling rate.")
    ] = SEMANTIC.recipe.cooldown,
    seed: Seed = SEMANTIC.seed,
    amp: Amp = SEMANTIC.amp,
    device: Device = RUN.device,
    threads: Threads = RUN.threads,
    cache: Cache = RUN.cache,
) -> None:
    """Train a small SigLIP, both halves, on views and the phrases of what they show."""
    _logs()
    config = checked(
        dataclasses.replace,
        SEMANTIC,
        scenes=scenes,
        choose=choose,
        seed=seed,
        amp=amp,
        recipe=checked(dataclasses.replace, SEMANTIC.recipe, steps=steps, cooldown=cooldown),
    )
    run = checked(PretrainRun, device=device, threads=threads, cache=cache)
    from vega3d.train.pretrain.semantic import pretrain_semantic

    try:
        print_result(pretrain_semantic(out, config, run))
    except KeyboardInterrupt:
        raise interrupted() from None
