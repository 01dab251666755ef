"""`vega3d-train`: each command turns options into configs, calls one function, prints a result.

The last line on stdout is one JSON object; progress and logs go to stderr. Exit codes: 0 done,
1 a bug or a loss that is not finite, 2 wrong usage or stores that do not fit, 130 and 143
interrupted (run the same command again to go on).
"""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from vega3d.pipeline.commands import (
    TERMINATED,
    check_out,
    checked,
    interrupted,
    print_result,
    run_app,
)
from vega3d.train.config import TASKS, VARIANTS, RunConfig, TrainConfig
from vega3d.train.pretrain.cli import app as pretrain

DEFAULT = TrainConfig()
RUN = RunConfig()
DEFAULT_TASKS = ",".join(DEFAULT.tasks)
ALL_VARIANTS = ",".join(VARIANTS)

app = typer.Typer(
    name="vega3d-train",
    help="Train a small gated fusion on cached priors and semantic tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # square brackets are defaults here
)

app.add_typer(pretrain, name="pretrain")


class Weights(StrEnum):
    """Which weights of a run."""

    LAST = "last"
    BEST = "best"


Prior = Annotated[list[str], typer.Option(help="Store of generative features; repeat for several.")]
Semantic = Annotated[list[str], typer.Option(help="Store of semantic features; repeat likewise.")]
OtherPrior = Annotated[
    list[str] | None, typer.Option("--prior", help="Score all scenes of this store instead.")
]
OtherSemantic = Annotated[list[str] | None, typer.Option("--semantic", help="Its semantic store.")]
Labels = Annotated[
    list[str] | None, typer.Option(help="Store of token classes, for the task classes.")
]
PriorTap = Annotated[str | None, typer.Option(help="Tap of the prior, where there are several.")]
SemanticTap = Annotated[str | None, typer.Option(help="Tap of the semantic store, likewise.")]
Tasks = Annotated[
    str, typer.Option("--task", help=f"One or more, such as depth,matching: {TASKS}.")
]
Variant = Annotated[str, typer.Option(help=f"Fusion: {', '.join(VARIANTS)}.")]
HiddenDim = Annotated[int, typer.Option(help="Width of the projected streams and of the heads.")]
ReaderLayers = Annotated[int, typer.Option(help="Transformer layers after the fusion.")]
Heads = Annotated[int, typer.Option(help="Attention heads.")]
Dropout = Annotated[float, typer.Option(help="Of the cross-attention variants.")]
Steps = Annotated[int, typer.Option(help="Optimiser steps.")]
BatchSize = Annotated[int, typer.Option(help="Samples a step, over all processes.")]
ViewsPerSample = Annotated[int, typer.Option(help="Views of one scene in a sample.")]
Accumulate = Annotated[int, typer.Option(help="Parts a step's batch is cut into.")]
Lr = Annotated[float, typer.Option(help="Peak learning rate of AdamW.")]
Warmup = Annotated[float, typer.Option(help="Share of the steps with a rising rate.")]
WeightDecay = Annotated[float, typer.Option(help="Of matrices only.")]
ClipNorm = Annotated[float, typer.Option(help="Largest norm of the gradient; 0: leave it.")]
Amp = Annotated[bool, typer.Option("--amp", help="Matrix products in bfloat16.")]
Ema = Annotated[float, typer.Option(help="Decay of averaged weights, then scored; 0: off.")]
ValShare = Annotated[float, typer.Option(help="Share of the scenes that is scored.")]
GapViews = Annotated[int, typer.Option(help="One scene: views between training and scoring.")]
MinDepthShare = Annotated[float, typer.Option(help="Pixels a token needs measured, as a share.")]
MatchRadius = Annotated[float, typer.Option(help="Metres within which two tokens are one point.")]
NumClasses = Annotated[int, typer.Option(help="Classes of the label store.")]
ShardsInFlight = Annotated[int, typer.Option(help="Shards shuffled together.")]
Seed = Annotated[int, typer.Option(help="Of weights, order, pairs and dropout.")]
SplitSeed = Annotated[int, typer.Option(help="Of the choice of scored scenes.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Workers = Annotated[int, typer.Option(help="Threads that read ahead; 0: none.")]
Prefetch = Annotated[int, typer.Option(help="Batches read ahead.")]
CacheBytes = Annotated[int, typer.Option(help="Bytes of features kept in RAM; 0: none.")]
LogEvery = Annotated[int, typer.Option(help="Steps between two lines of metrics.jsonl.")]
EvalEvery = Annotated[int, typer.Option(help="Steps between two scorings.")]
CheckpointEvery = Annotated[int, typer.Option(help="Steps between two checkpoints.")]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Train on the committed part of a store.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]
WeightsOption = Annotated[Weights, typer.Option(help="The last ones, or the best scored.")]


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more to stderr.")] = False,
) -> None:
    """Train a small gated fusion on cached priors and semantic tokens."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
    )
    for name in ("journal", "trainer"):  # progress, and where a run goes on, are always said
        logging.getLogger(f"vega3d.train.{name}").setLevel(logging.INFO)


@app.command()
def fit(
    prior: Prior,
    semantic: Semantic,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same one resumes.")],
    task: Tasks = DEFAULT_TASKS,
    labels: Labels = None,
    prior_tap: PriorTap = None,
    semantic_tap: SemanticTap = None,
    variant: Variant = DEFAULT.variant,
    hidden_dim: HiddenDim = DEFAULT.hidden_dim,
    reader_layers: ReaderLayers = DEFAULT.reader_layers,
    heads: Heads = DEFAULT.heads,
    dropout: Dropout = DEFAULT.dropout,
    steps: Steps = DEFAULT.steps,
    batch_size: BatchSize = DEFAULT.batch_size,
    views_per_sample: ViewsPerSample = DEFAULT.views_per_sample,
    accumulate: Accumulate = DEFAULT.accumulate,
    lr: Lr = DEFAULT.lr,
    warmup: Warmup = DEFAULT.warmup,
    weight_decay: WeightDecay = DEFAULT.weight_decay,
    clip_norm: ClipNorm = DEFAULT.clip_norm,
    amp: Amp = DEFAULT.amp,
    ema: Ema = DEFAULT.ema,
    val_share: ValShare = DEFAULT.val_share,
    gap_views: GapViews = DEFAULT.gap_views,
    min_depth_share: MinDepthShare = DEFAULT.min_depth_share,
    match_radius_m: MatchRadius = DEFAULT.match_radius_m,
    num_classes: NumClasses = DEFAULT.num_classes,
    shards_in_flight: ShardsInFlight = DEFAULT.shards_in_flight,
    seed: Seed = DEFAULT.seed,
    split_seed: SplitSeed = DEFAULT.split_seed,
    device: Device = RUN.device,
    workers: Workers = RUN.workers,
    prefetch: Prefetch = RUN.prefetch,
    cache_bytes: CacheBytes = RUN.cache_bytes,
    log_every: LogEvery = RUN.log_every,
    eval_every: EvalEvery = RUN.eval_every,
    checkpoint_every: CheckpointEvery = RUN.checkpoint_every,
    allow_partial: AllowPartial = False,
    dry_run: DryRun = False,
) -> None:
    """Train one fusion; the same command resumes. Under torchrun: data-parallel."""
    asked = locals()
    check_out(out)
    config, run = _configs(asked)
    stores = _stores(asked)
    if dry_run:
        _print(_planned(config, run, **stores))
        return
    from vega3d.train.fitting import fit as fit_run

    try:
        summary = fit_run(out=out, config=config, run=run, **stores)
    except KeyboardInterrupt:
        raise interrupted() from None
    _print({name: value for name, value in summary.items() if name != "scene_scores"})
    if not summary["finished"]:
        raise typer.Exit(TERMINATED)


@app.command()
def ablate(
    prior: Prior,
    semantic: Semantic,
    out: Annotated[Path, typer.Option(help="Folder of the runs and their table.")],
    task: Tasks = DEFAULT_TASKS,
    variants: Annotated[str, typer.Option(help="Fusions to compare.")] = ALL_VARIANTS,
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0,1,2.")] = "0,1,2",
    baseline: Annotated[str, typer.Option(help="Fusion the others are tested against.")] = (
        "semantic"
    ),
    labels: Labels = None,
    prior_tap: PriorTap = None,
    semantic_tap: SemanticTap = None,
    hidden_dim: HiddenDim = DEFAULT.hidden_dim,
    reader_layers: ReaderLayers = DEFAULT.reader_layers,
    heads: Heads = DEFAULT.heads,
    dropout: Dropout = DEFAULT.dropout,
    steps: Steps = DEFAULT.steps,
    batch_size: BatchSize = DEFAULT.batch_size,
    views_per_sample: ViewsPerSample = DEFAULT.views_per_sample,
    accumulate: Accumulate = DEFAULT.accumulate,
    lr: Lr = DEFAULT.lr,
    warmup: Warmup = DEFAULT.warmup,
    weight_decay: WeightDecay = DEFAULT.weight_decay,
    clip_norm: ClipNorm = DEFAULT.clip_norm,
    amp: Amp = DEFAULT.amp,
    ema: Ema = DEFAULT.ema,
    val_share: ValShare = DEFAULT.val_share,
    gap_views: GapViews = DEFAULT.gap_views,
    min_depth_share: MinDepthShare = DEFAULT.min_depth_share,
    match_radius_m: MatchRadius = DEFAULT.match_radius_m,
    num_classes: NumClasses = DEFAULT.num_classes,
    shards_in_flight: ShardsInFlight = DEFAULT.shards_in_flight,
    split_seed: SplitSeed = DEFAULT.split_seed,
    device: Device = RUN.device,
    workers: Workers = RUN.workers,
    prefetch: Prefetch = RUN.prefetch,
    cache_bytes: CacheBytes = RUN.cache_bytes,
    log_every: LogEvery = RUN.log_every,
    eval_every: EvalEvery = RUN.eval_every,
    checkpoint_every: CheckpointEvery = RUN.checkpoint_every,
    allow_partial: AllowPartial = False,
    dry_run: DryRun = False,
) -> None:
    """Train every fusion on the same split and seeds, and write one table."""
    asked = locals()
    check_out(out)
    config, run = _configs(asked)
    names = [name.strip() for name in variants.split(",")]
    numbers = [_whole(text) for text in seeds.split(",")]
    if dry_run:
        from vega3d.train.ablation import plan_ablation

        plan_ablation(config, names, numbers, baseline)
        runs = {"variants": names, "seeds": numbers, "runs": len(names) * len(numbers)}
        _print(_planned(config, run, **_stores(asked)) | runs)
        return
    from vega3d.train.ablation import ablate as ablate_runs

    try:
        result = ablate_runs(
            out=out,
            config=config,
            run=run,
            variants=names,
            seeds=numbers,
            baseline=baseline,
            **_stores(asked),
        )
    except KeyboardInterrupt:
        raise interrupted() from None
    if result["finished"] and _is_first():
        print((out / "ablation.md").read_text(), file=sys.stderr)
    _print(result)
    if not result["finished"]:
        raise typer.Exit(TERMINATED)


@app.command("eval")
def eval_(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    prior: OtherPrior = None,
    semantic: OtherSemantic = None,
    labels: Labels = None,
    weights: WeightsOption = Weights.LAST,
    force_gate: Annotated[
        float | None, typer.Option(help="Weight of the semantic tokens in place of the gate.")
    ] = None,
    device: Device = RUN.device,
    workers: Workers = RUN.workers,
    allow_partial: AllowPartial = False,
) -> None:
    """Score a run again: its held-out views, or all views of other stores."""
    from vega3d.train.evaluation import evaluate_run

    scores = evaluate_run(
        run_dir,
        checked(RunConfig, device=device, workers=workers, allow_partial=allow_partial),
        prior=prior or None,
        semantic=semantic or None,
        labels=labels or None,
        weights=f"{weights.value}.safetensors",
        force_gate=force_gate,
    )
    _print(scores)


@app.command()
def export(
    what: Annotated[
        str, typer.Argument(metavar="RUN|webdataset", help="Folder of a run, or `webdataset`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    weights: WeightsOption = Weights.LAST,
    prior: Annotated[list[str] | None, typer.Option(help="webdataset: the prior store.")] = None,
    semantic: Annotated[list[str] | None, typer.Option(help="webdataset: the other store.")] = None,
    labels: Labels = None,
    prior_tap: PriorTap = None,
    semantic_tap: SemanticTap = None,
    views_per_tar: Annotated[
        int, typer.Option(min=1, help="webdataset: samples of one tar.")
    ] = 512,
    allow_partial: AllowPartial = False,
    dry_run: DryRun = False,
) -> None:
    """Write a run's fusion for `GatedFusion.from_pretrained`, or stores as WebDataset shards."""
    check_out(out)
    from vega3d.train.export import export_fusion, export_webdataset
    from vega3d.train.pairing import pair_stores
    from vega3d.train.rundir import read_record

    if what != "webdataset":
        if dry_run:
            _print({"run": what, "would write": str(out), "dims": read_record(Path(what))["dims"]})
            return
        fusion = export_fusion(what, out, weights=f"{weights.value}.safetensors")
        _print({"out": str(out), "variant": fusion.variant, "files": sorted(os.listdir(out))})
        return
    if not prior or not semantic:
        raise typer.BadParameter("export webdataset needs --prior and --semantic")
    pairing = pair_stores(
        prior,
        semantic,
        prior_tap=prior_tap,
        semantic_tap=semantic_tap,
        labels=labels or None,
        allow_partial=allow_partial,
    )
    if dry_run:
        views = sum(len(pairing.prior.view_ids(name)) for name in pairing.scene_ids)
        _print({"samples": views, "tars": -(-views // views_per_tar)})
        return
    _print(export_webdataset(pairing, out, views_per_tar=views_per_tar))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; maps our errors to exit codes."""
    run_app(app, arguments)


def _configs(asked: dict[str, Any]) -> tuple[TrainConfig, RunConfig]:
    tasks = tuple(name.strip() for name in asked["task"].split(","))
    train = {f.name: asked[f.name] for f in fields(TrainConfig) if f.name in asked}
    run = {f.name: asked[f.name] for f in fields(RunConfig) if f.name in asked}
    return checked(TrainConfig, **{**train, "tasks": tasks}), checked(RunConfig, **run)


def _stores(asked: dict[str, Any]) -> dict[str, Any]:
    names = ("prior", "semantic", "prior_tap", "semantic_tap")
    return {name: asked[name] for name in names} | {"labels": asked["labels"] or None}


def _planned(
    config: TrainConfig,
    run: RunConfig,
    prior: list[str],
    semantic: list[str],
    labels: list[str] | None,
    prior_tap: str | None,
    semantic_tap: str | None,
) -> dict[str, Any]:
    from vega3d.train.pairing import pair_stores
    from vega3d.train.rundir import check_answers, plan_run

    pairing = pair_stores(
        prior,
        semantic,
        prior_tap=prior_tap,
        semantic_tap=semantic_tap,
        labels=labels,
        allow_partial=run.allow_partial,
    )
    plan = plan_run(pairing, config)
    check_answers(plan)
    epoch = plan.order.samples_per_epoch
    return {
        "scenes": len(pairing.scene_ids),
        "split": plan.split.note,
        "notes": list(pairing.notes),
        "samples_per_epoch": epoch,
        "epochs": round(config.steps * config.batch_size / epoch, 2),
        "parameters": sum(p.numel() for p in plan.build_model().parameters()),
    }


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"seeds are whole numbers such as 0,1,2, got {text!r}") from error


def _is_first() -> bool:
    from vega3d.train.processes import is_first_process

    return is_first_process()


def _print(result: dict[str, Any]) -> None:
    if _is_first():
        print_result(result)


if __name__ == "__main__":
    main()
