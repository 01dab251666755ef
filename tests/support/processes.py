"""Our programs in processes of their own, forked from one that has imported what they import.

Starting Python and importing torch and the model classes takes seconds, and is the same every time:
`tests/test_readme.py` starts the programs as a user does, these tests look at what they do then.
"""

import importlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

PROGRAMS = {
    "vega3d-extract": "vega3d.pipeline.cli",
    "vega3d-consistency": "vega3d.evaluate.cli",
    "vega3d-train": "vega3d.train.cli",
    "vega3d-benchmark": "vega3d.evaluate.benchmarks.cli",
}
PRELOADED = (
    *PROGRAMS.values(),
    "vega3d.pipeline.extract",
    "vega3d.pipeline.backbones.wan",
    "vega3d.pipeline.backbones.siglip",
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "diffusers.models.transformers.transformer_wan",
    "numba",
    "zarr",
)


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Running:
    """A program that may still run."""

    process: ForkServerProcess
    told: Sequence[Path]
    """Where its stdout and stderr go."""

    def ended(self, timeout_s: float = 300) -> Done:
        """Wait for its end; one that takes longer is killed."""
        self.process.join(timeout_s)
        self.process.kill()  # where it still runs
        self.process.join()
        assert self.process.exitcode is not None
        return Done(self.process.exitcode, *(path.read_text() for path in self.told))


@contextmanager
def started_program(program: str, *args: object) -> Iterator[Running]:
    """Start a program; not with Ray, which does not start in a forked process."""
    with tempfile.TemporaryDirectory() as folder:
        told = [Path(folder) / name for name in ("stdout", "stderr")]
        words = [program, *map(str, args)]
        process = _context().Process(
            target=_become, args=(words, dict(os.environ), Path.cwd(), told)
        )
        process.start()
        try:
            yield Running(process, told)
        finally:
            process.kill()
            process.join()


def run_program(program: str, *args: object, timeout_s: float = 300) -> Done:
    """Run a program to its end."""
    with started_program(program, *args) as running:
        return running.ended(timeout_s)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _become(words: list[str], environment: dict[str, str], cwd: Path, told: list[Path]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(told, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.argv = words
    importlib.import_module(PROGRAMS[words[0]]).main()
