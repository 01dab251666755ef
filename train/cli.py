"""`vega3d-train`: each command takes configs, calls one function, prints a result.

The last line on stdout is one JSON object; progress and logs go to stderr. Exit codes: 0 done,
1 a bug or a loss that is not finite, 2 wrong usage or stores that do not fit, 130 and 143
interrupted (run the same command again to go on).
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vega3d.pipeline.commands import check_out, run_app
from vega3d.pipeline.options import DryRun, Program, Version
from vega3d.pipeline.texts import start_logging, tell
from vega3d.train.commands import print_once, run_to_end
from vega3d.train.config import AblationConfig, OtherStores, RunConfig, Stores, TrainConfig
from vega3d.train.hosts.cli import app as host
from vega3d.train.pretrain.cli import app as pretrain

if TYPE_CHECKING:
    from vega3d.train.pairing import Pairing

app = Program("vega3d-train", "Train a small gated fusion on cached priors and semantic tokens.")
app.add_typer(pretrain)
app.add_typer(host)

_VIEWS_PER_TAR = 512

Weights = Annotated[
    Literal["last", "best"], typer.Option(help="The last ones, or the best scored.")
]


@app.callback()
def _options(
    _version: Version = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more to stderr.")] = False,
) -> None:
    """Train a small gated fusion on cached priors and semantic tokens."""
    start_logging(logging.INFO if verbose else logging.WARNING)
    for name in ("journal", "trainer"):  # progress, and where a run goes on, are always said
        logging.getLogger(f"vega3d.train.{name}").setLevel(logging.INFO)


@app.command()
def fit(
    stores: Stores,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same one resumes.")],
    config: TrainConfig,
    run: RunConfig,
    dry_run: DryRun = False,
) -> None:
    """Train one fusion; the same command resumes. Under torchrun: data-parallel."""
    check_out(out)
    if dry_run:
        print_once(_planned(config, run, stores))
        return
    from vega3d.train.fitting import fit as fit_run

    run_to_end(lambda: fit_run(out=out, config=config, run=run, **asdict(stores)))


@app.command(without=("variant", "seed"))
def ablate(
    stores: Stores,
    out: Annotated[Path, typer.Option(help="Folder of the runs and their table.")],
    compared: AblationConfig,
    config: TrainConfig,
    run: RunConfig,
    dry_run: DryRun = False,
) -> None:
    """Train every fusion on the same split and seeds, and write one table."""
    check_out(out)
    from vega3d.train.ablation import ablate as ablate_runs
    from vega3d.train.ablation import plan_ablation
    from vega3d.train.processes import is_first_process

    if dry_run:
        runs = len(plan_ablation(config, compared))
        print_once(_planned(config, run, stores) | asdict(compared) | {"runs": runs})
        return

    def compare() -> dict[str, Any]:
        result = ablate_runs(out=out, config=config, run=run, compared=compared, **asdict(stores))
        if result["finished"] and is_first_process():
            tell((out / "ablation.md").read_text())
        return result

    run_to_end(compare)


@app.command(
    "eval",
    only=(
        *("prior", "semantic", "labels", "questions", "actions"),
        *("device", "workers", "allow_partial"),
    ),
)
def eval_(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    stores: OtherStores,
    run: RunConfig,
    weights: Weights = "last",
    force_gate: Annotated[
        float | None, typer.Option(help="Weight of the semantic tokens in place of the gate.")
    ] = None,
) -> None:
    """Score a run again: its held-out views, or all views of other stores."""
    from vega3d.train.evaluation import evaluate_run

    print_once(
        evaluate_run(
            run_dir,
            run,
            prior=stores.prior,
            semantic=stores.semantic,
            labels=stores.labels,
            questions=stores.questions,
            actions=stores.actions,
            weights=f"{weights}.safetensors",
            force_gate=force_gate,
        )
    )


@app.command(only=("prior", "semantic", "labels", "prior_tap", "semantic_tap", "allow_partial"))
def export(
    what: Annotated[
        str, typer.Argument(metavar="RUN|webdataset", help="Folder of a run, or `webdataset`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    stores: OtherStores,
    run: RunConfig,
    weights: Weights = "last",
    views_per_tar: Annotated[
        int, typer.Option(min=1, help="webdataset: samples of one tar.")
    ] = _VIEWS_PER_TAR,
    dry_run: DryRun = False,
) -> None:
    """Write a run's fusion for `GatedFusion.from_pretrained`, or stores as WebDataset shards."""
    check_out(out)
    if what == "webdataset":
        if not stores.prior or not stores.semantic:
            raise typer.BadParameter("export webdataset needs --prior and --semantic")
        if weights != "last":
            raise typer.BadParameter("--weights are a run's; export webdataset writes features")
        _export_webdataset(_paired(stores, run), out, views_per_tar, dry_run)
    else:
        if any(asdict(stores).values()) or run.allow_partial or views_per_tar != _VIEWS_PER_TAR:
            raise typer.BadParameter(
                "a run's fusion is exported alone: stores and --views-per-tar go with webdataset"
            )
        _export_fusion(Path(what), out, f"{weights}.safetensors", dry_run)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; maps our errors to exit codes."""
    run_app(app, arguments)


def _export_fusion(run_dir: Path, out: Path, weights: str, dry_run: bool) -> None:
    from vega3d.train.export import export_fusion
    from vega3d.train.rundir import read_record

    if dry_run:
        dims = read_record(run_dir)["dims"]
        print_once({"run": str(run_dir), "would write": str(out), "dims": dims})
        return
    fusion = export_fusion(run_dir, out, weights=weights)
    print_once({"out": str(out), "variant": fusion.variant, "files": sorted(os.listdir(out))})


def _export_webdataset(pairing: "Pairing", out: Path, views_per_tar: int, dry_run: bool) -> None:
    from vega3d.train.export import export_webdataset

    if dry_run:
        views = sum(len(pairing.prior.view_ids(name)) for name in pairing.scene_ids)
        print_once({"samples": views, "tars": -(-views // views_per_tar)})
        return
    print_once(export_webdataset(pairing, out, views_per_tar=views_per_tar))


def _planned(config: TrainConfig, run: RunConfig, stores: Stores) -> dict[str, Any]:
    from vega3d.train.rundir import check_answers, plan_run

    pairing = _paired(stores, run)
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


def _paired(stores: OtherStores, run: RunConfig) -> "Pairing":
    from vega3d.train.pairing import pair_stores

    return pair_stores(**asdict(stores), allow_partial=run.allow_partial)


if __name__ == "__main__":
    main()
