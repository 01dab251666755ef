"""Our programs in processes of their own, forked from one that has imported what they import.

Starting Python and importing torch and the model classes takes seconds, and is the same every time:
`tests/test_readme.py` starts the programs as a user does, these tests look at what they do then.
"""

import importlib
import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Self

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


class Program:
    """One of our programs, started; a context that leaves nothing running."""

    def __init__(self, program: str, *args: object) -> None:
        """Start it with this process's environment and folder."""
        self._folder = tempfile.TemporaryDirectory()
        self._told = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        self._process = _context().Process(
            target=_become,
            args=([program, *map(str, args)], dict(os.environ), Path.cwd(), self._told),
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process, to send signals to."""
        assert self._process.pid
        return self._process.pid

    def wait(self, timeout_s: float = 300) -> Done:
        """Return how it ended."""
        self._process.join(timeout_s)
        assert self._process.exitcode is not None, f"still running after {timeout_s} s"
        return Done(self._process.exitcode, *(path.read_text() for path in self._told))

    def __enter__(self) -> Self:
        """Return the program."""
        return self

    def __exit__(self, *error: object) -> None:
        """Kill what still runs."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._folder.cleanup()


def run_program(program: str, *args: object) -> Done:
    """Run a program to its end."""
    with Program(program, *args) as started:
        return started.wait()


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
