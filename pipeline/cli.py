"""`vega3d-extract`: each command takes configs, calls one function, prints a result.

The last line on stdout is one JSON object; progress and logs go to stderr. Exit codes: 0 done,
1 a bug, 2 wrong usage or a place that cannot be used, 3 done but some scenes failed, 130 and 143
interrupted (run the same command again to go on).

The commands stand with their noun, in `cli_extract.py` (`run` is the story), `cli_scenes.py`,
`cli_stores.py`, `cli_cluster.py` and `cli_demo.py`: a new one goes there. What a command takes is
declared once: a setting is a field of a config, and a parameter of that config's type brings all
its options.
"""

import logging
from typing import Annotated, Literal

import typer

from vega3d.pipeline import cli_cluster, cli_demo, cli_extract, cli_scenes, cli_stores
from vega3d.pipeline.commands import exit_on_sigterm, run_app
from vega3d.pipeline.options import Program, Version
from vega3d.pipeline.texts import start_logging

LogFormat = Literal["text", "json"]

app = Program(
    "vega3d-extract",
    "Posed scenes in, features of a frozen video generator in a sharded Zarr store out.",
)
for part in (cli_extract, cli_scenes, cli_stores, cli_cluster, cli_demo):
    app.add_typer(part.app)


@app.callback()
def _options(
    _version: Version = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more to stderr.")] = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="text for people; json for programs, an object a line.")
    ] = "text",
) -> None:
    """Posed scenes in, features in a sharded Zarr store out."""
    start_logging(logging.INFO if verbose else logging.WARNING, as_json=log_format == "json")
    logging.getLogger("vega3d").setLevel(logging.INFO)


def main() -> None:
    """Run the command line; maps our errors to exit codes."""
    exit_on_sigterm()
    run_app(app)
