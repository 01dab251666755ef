"""`vega3d-train host`: each command takes configs, calls one function, prints a result."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from vega3d.pipeline.commands import check_out, print_result, run_app
from vega3d.pipeline.options import DryRun, Program
from vega3d.train.commands import run_to_end
from vega3d.train.hosts.config import HostConfig, HostRun, HostSources

app = Program("host", "Train what is added to a vision-language model, and nothing of the model.")


@app.callback()
def _options() -> None:
    """Train what is added to a vision-language model, and nothing of the model."""
    for name in ("hosts", "journal"):
        logging.getLogger(f"vega3d.train.{name}").setLevel(logging.INFO)


@app.command()
def fit(
    sources: HostSources,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same one resumes.")],
    config: HostConfig,
    run: HostRun,
    dry_run: DryRun = False,
) -> None:
    """Train, then answer the scored questions. Under torchrun: data-parallel, --shard for FSDP."""
    check_out(out)
    from vega3d.train.hosts.fitting import fit_host, open_plan

    if dry_run:
        plan = open_plan(sources, config, run)
        counts = {"train": len(plan.training), "scored": len(plan.scored)}
        epochs = round(config.steps * config.batch_size / max(1, len(plan.training)), 2)
        print_result({"questions": counts, "epochs": epochs, "notes": list(plan.notes)})
        return
    run_to_end(lambda: fit_host(sources, out, config, run))


def main() -> None:
    """Run the command line."""
    run_app(app)
