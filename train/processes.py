"""The processes of a data-parallel run: one alone, or those that torchrun started; their end."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vega3d.pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Processes:
    """Who this process is among its peers."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """True for the process that writes files."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the processes' values, the same on each of them."""
        summed = values.detach().clone()
        if self.count > 1:
            dist.all_reduce(summed)
        return summed

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401 - any picklable value
        """Return every process's value, in order of rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values


def is_first_process() -> bool:
    """Say whether this process writes files; also true where no torchrun is about."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Inside of another such block it joins nothing and leaves nothing: a group that was left cannot
    be joined again without losing the others. `auto` is the GPU where torch sees one; a GPU that
    is named is this process's own from then on.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("device is cuda, and torch sees no GPU here; pass --device cpu")
    if device == "cuda" and count > 1:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    if device.startswith("cuda:"):
        if torch.device(device).index >= (there := torch.cuda.device_count()):
            raise UsageError(f"device is {device}, and torch sees {there} here; they count from 0")
        torch.cuda.set_device(device)  # what names no device, streams and pinned memory, is here
    if count == 1:
        yield Processes(0, 1, torch.device(device))
        return
    if dist.is_initialized():
        yield Processes(dist.get_rank(), count, torch.device(device))
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Processes(dist.get_rank(), count, torch.device(device))
    finally:
        dist.destroy_process_group()


class StopSignal:
    """Remembers a SIGTERM, so that a loop ends after its step with all saved."""

    def __init__(self) -> None:
        """Start unasked."""
        self.asked = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen inside the `with`; only the main thread may set handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(_: int, __: FrameType | None) -> None:
            self.asked = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def repeatable(asked: bool, device: str) -> Iterator[None]:
    """Ask CUDA for repeatable kernels while a run lasts; a CPU's are repeatable by themselves."""
    if not (asked and device.startswith("cuda")):
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS first starts
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
