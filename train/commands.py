"""What the training command lines share: one result of all processes, and how a run ends."""

from collections.abc import Callable
from typing import Any

import typer

from vega3d.pipeline.commands import TERMINATED, print_result, resumable

_LONG = "scene_scores"  # a number a scene: in the summary's file alone


def print_once(result: dict[str, Any]) -> None:
    """Print the result on the first process alone."""
    from vega3d.train.processes import is_first_process  # torch

    if is_first_process():
        print_result({name: value for name, value in result.items() if name != _LONG})


def run_to_end(work: Callable[[], dict[str, Any]]) -> None:
    """Do what can be gone on with, and print its result.

    Args:
        work: Returns a summary whose `finished` is False where SIGTERM ended it early.

    Raises:
        typer.Exit: With 130 after Ctrl-C, 143 after SIGTERM.
    """
    with resumable():
        summary = work()
    print_once(summary)
    if not summary["finished"]:
        raise typer.Exit(TERMINATED)
