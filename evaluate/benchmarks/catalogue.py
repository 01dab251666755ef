"""All benchmarks by name; a module loads when it is asked for."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from vega3d.evaluate.benchmarks.config import BENCHMARKS
from vega3d.evaluate.benchmarks.measures import Score
from vega3d.evaluate.benchmarks.needs import with_needs
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.texts import meant


class Benchmark(Protocol):
    """What a module of this package offers."""

    PROTOCOLS: tuple[str, ...]
    """Ways of scoring, the official one first."""

    ANNOTATED: bool
    """The answers are in a file of the benchmark's own."""

    score: Callable[[str | Path, str | Path, str], Score]


def score(name: str, annotations: str | Path, predictions: str | Path, protocol: str = "") -> Score:
    """Score a file of predictions with a benchmark's metrics.

    Args:
        name: One of BENCHMARKS.
        annotations: The benchmark's file; "" where answers come with the predictions.
        predictions: Whose records each module describes.
        protocol: One of the module's; "" takes the official one.

    Raises:
        UsageError: No such benchmark or protocol, or a malformed file.
    """
    if name not in BENCHMARKS:
        told = f"{', '.join(BENCHMARKS)}, got {meant(name, BENCHMARKS)}"
        raise UsageError(f"benchmark must be one of {told}")
    module = cast("Benchmark", import_module(f"vega3d.evaluate.benchmarks.{name}"))
    if module.ANNOTATED and not annotations:
        raise UsageError(f"{name} needs --annotations, the benchmark's own file")
    if protocol and protocol not in module.PROTOCOLS:
        raise UsageError(
            f"--protocol of {name} must be one of {', '.join(module.PROTOCOLS)}, got {protocol!r}"
        )
    scored = module.score(annotations, predictions, protocol or module.PROTOCOLS[0])
    return with_needs(scored, annotations) if module.ANNOTATED else scored
