"""The command `demo`: the whole way once, from rooms to a trained fusion.

Standard library and typer only, until it runs.
"""

from functools import partial
from typing import Annotated, Any

import typer

from vega3d.pipeline.cli_extract import extract_to
from vega3d.pipeline.commands import check_out, print_result
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.options import DryRun, Program
from vega3d.pipeline.texts import tell

app = Program()


@app.command(only=("workers",), defaults={"runner": "ray", "workers": 2, "cpus_per_worker": 0.5})
def demo(
    run: RunConfig,
    out: Annotated[str, typer.Option(help="Folder for everything the demo makes.")] = "demo-output",
    rooms: Annotated[
        int, typer.Option(min=4, help="How many rooms; fewer are faster and tell less.")
    ] = 24,
    dry_run: DryRun = False,
) -> None:
    """Extract, score and train on procedural rooms with the desk models; needs no download."""
    check_out(out)
    from vega3d.cluster.connecting import connection
    from vega3d.pipeline.demo import SCENES, run_demo

    if dry_run:
        print_result({"scenes": SCENES.format(rooms), "out": out})
        return
    with connection(run):  # one start of Ray for both stores
        made = run_demo(out, partial(extract_to, run=run), rooms)
    made |= _score_and_train(made, out)
    tell(_where(made))
    print_result(made)


def _where(made: dict[str, Any]) -> str:
    """Return what a person should look at."""
    return (
        f"\nprior features:     {made['prior']}\nits random twin's:  {made['random']}\n"
        f"semantic features:  {made['semantic']}\n"
        f"Now look at\n"
        f"  pictures of them   {made['pictures'][0]} and its neighbours\n"
        f"  consistency        {made['consistency']}\n"
        f"  a page to point at {made['explore']}\n"
        f"  a trained fusion   {made['fusion']}"
    )


def _score_and_train(made: dict[str, Any], out: str) -> dict[str, str]:
    from vega3d.evaluate.exploring import explore
    from vega3d.evaluate.report import report
    from vega3d.train.config import RunConfig as TrainRun
    from vega3d.train.config import TrainConfig
    from vega3d.train.fitting import fit

    stores = [f"{name}={made[name]}" for name in ("prior", "random", "semantic")]
    scored = report(stores, f"{out}/consistency")
    explored = explore(stores, f"{out}/explore")
    config = TrainConfig(tasks=("depth", "matching"), steps=120, hidden_dim=64, batch_size=8)
    run = TrainRun(eval_every=20, log_every=5)
    fit(made["prior"], made["semantic"], f"{out}/fusion", config, run)
    return {
        "consistency": str(scored.html),
        "explore": str(explored.html),
        "fusion": f"{out}/fusion/report.html",
    }
