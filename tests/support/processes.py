"""Our programs in processes of their own, forked from one that has imported what they import.

Starting Python and importing torch and the model classes takes seconds, and is the same every time:
`tests/test_readme.py` starts the programs as a user does, these tests look at what they do then.
"""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
    "vega3d.train.fitting",
    "vega3d.train.hosts.fitting",
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
def started_program(
    program: str, *args: object, place: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start a program; not with Ray, which does not start in a forked process."""
    with tempfile.TemporaryDirectory() as folder:
        told = [Path(folder) / name for name in ("stdout", "stderr")]
        words = [program, *map(str, args)]
        process = start(_become, words, Path.cwd(), told, place=place)
        try:
            yield Running(process, told)
        finally:
            process.kill()
            process.join()


def run_program(program: str, *args: object, timeout_s: float = 300) -> Done:
    """Run a program to its end."""
    with started_program(program, *args) as running:
        return running.ended(timeout_s)


def run_together(program: str, *args: object, count: int) -> list[Done]:
    """Run a program in processes that know of each other, as torchrun tells it them."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(started_program(program, *args, place=place))
            for place in places(count)
        ]
        return [one.ended() for one in running]


def places(count: int) -> list[dict[str, str]]:
    """Return what torchrun says in the environment of each of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**shared, "RANK": str(k), "LOCAL_RANK": str(k)} for k in range(count)]


def start(
    function: Callable[..., None], *args: object, place: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Begin a function of a module in tests/support, in a process of its own."""
    environment = {**os.environ, **(place or {})}
    process = _context().Process(target=_call, args=(function, args, environment))
    process.start()
    return process


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _call(
    function: Callable[..., None], args: tuple[object, ...], environment: Mapping[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(*args)


def _become(words: list[str], cwd: Path, told: list[Path]) -> None:
    os.setsid()
    os.chdir(cwd)
    # A shell that runs the suite in the background has its programs ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate(told, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.argv = words
    importlib.import_module(PROGRAMS[words[0]]).main()
