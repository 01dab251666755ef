"""One loop for all models that are trained here: steps, averaged weights, exact resume, metrics."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vega3d.pipeline.errors import UsageError
from vega3d.train.checkpoint import State, load_state, save_state
from vega3d.train.journal import Journal, read_metrics
from vega3d.train.optimizer import NonFiniteLossError
from vega3d.train.pretrain.config import PretrainRun, Recipe
from vega3d.train.pretrain.limit import StepLimit
from vega3d.train.processes import Processes

_log = logging.getLogger(__name__)
Loss = Callable[[nn.Module, int], Tensor]
"""The loss of this process's part of a step's batch: a pure function of the step's number."""

Probe = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is trained, and until when."""

    folder: Path
    identity: dict[str, Any]
    """What decides the numbers; a state of another is refused."""

    run: PretrainRun
    processes: Processes
    ends_s: float = math.inf
    """When it must be over, by `time.monotonic`."""


def train(
    model: nn.Module, loss: Loss, probe: Probe, recipe: Recipe, place: Place
) -> tuple[nn.Module, int]:
    """Train a model as far as the recipe says; return it with the averaged weights, and the steps.

    Repeat the call to resume: the steps are those of the undisturbed run, bit for bit on the same
    machine, since a step's batch and noise come from its number alone. Where the time does not do
    for all steps, they are those of a recipe with fewer (see `StepLimit`).
    """
    processes, run = place.processes, place.run
    model.to(processes.device).train()
    average = deepcopy(model).requires_grad_(False).eval()
    optimizer = _optimizer(model, recipe, processes)
    done, spent = _resume(model, average, optimizer, place, recipe)
    limit = StepLimit(place.ends_s, done, processes)
    losses: list[Tensor] = []
    with _journal(place.folder, done, processes) as journal:
        while done < recipe.steps:
            losses.append(_step(model, average, optimizer, loss, done, recipe, processes))
            done += 1
            recipe = limit.shorten(recipe, done)
            is_last = done == recipe.steps
            if journal is None:
                continue
            if is_last or done % run.log_every == 0:
                _write(journal, "train", done, {"loss": _mean(losses, done), **spent()})
                losses = []
            if is_last or done % recipe.probe_every == 0:
                _write(journal, "val", done, {**probe(average), **spent()})
            if is_last or done % run.save_every == 0:
                journal.sync()
                save_state(place.folder, _state(done, model, average, optimizer), place.identity)
    return average, done


def _step(
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    step: int,
    recipe: Recipe,
    processes: Processes,
) -> Tensor:
    """Make one step, and return the loss over all processes, on its device: no wait for a GPU."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * rate(step, recipe)
    with quiet_norms():
        value = loss(model, step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
    _share_gradients(model, processes)
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    _average(average, model, min(recipe.ema, (1 + step) / (10 + step)))
    return processes.total(value.detach()) / processes.count


def _mean(losses: list[Tensor], step: int) -> float:
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise NonFiniteLossError(f"step {step}: the loss is {mean}; lower --lr")
    return mean


@contextmanager
def _journal(run_dir: Path, done: int, processes: Processes) -> Iterator[Journal | None]:
    """Open the run's metrics in the first process alone."""
    if not processes.is_first:
        yield None
        return
    journal = Journal(run_dir, done)
    try:
        yield journal
    finally:
        journal.close()


def _write(journal: Journal, kind: str, step: int, values: dict[str, float]) -> None:
    journal.write(kind, step, values)
    _log.info("%s step %d: %s", kind, step, values)


def rate(step: int, recipe: Recipe) -> float:
    """Return the share of the peak rate at a step: up, constant, and linearly down to 2 %."""
    left = (recipe.steps - step) / max(recipe.cooldown, 1)
    return min(1.0, (step + 1) / recipe.warmup) * max(min(1.0, left), 0.02)


def compile_each(blocks: Iterable[nn.Module]) -> None:
    """Compile blocks that are alike, once for all of them and every shape.

    In place: names of weights stay, and a copy of the model is not compiled.
    """
    for block in blocks:
        block.compile(dynamic=False)


@contextmanager
def quiet_norms() -> Iterator[None]:
    """Silence torch where bfloat16 meets a float32 norm, as mixed precision wants it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
        yield


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Decay matrices; leave biases, norms and tables alone."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in named if p.ndim >= 2 and "table" not in n and "position" not in n]
    chosen = {id(p) for p in decayed}
    others = [p for _, p in named if id(p) not in chosen]
    return [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _optimizer(model: nn.Module, recipe: Recipe, processes: Processes) -> torch.optim.Optimizer:
    """Return AdamW; one kernel for all weights on a GPU."""
    is_fused = processes.device.type == "cuda"
    return torch.optim.AdamW(
        _groups(model, recipe), lr=recipe.lr, betas=(0.9, 0.97), fused=is_fused
    )


def _resume(
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    place: Place,
    recipe: Recipe,
) -> tuple[int, Callable[[], dict[str, float]]]:
    """Load the last state, if there is one; return the finished steps, and what tells the time."""
    state = load_state(place.folder, place.identity)
    if state is None or state.average is None:
        return 0, _spending({})
    if recipe.steps < state.done:
        raise UsageError(f"{place.folder} has {state.done} steps already; give that many or more")
    model.load_state_dict(state.model)
    average.load_state_dict(state.average)
    optimizer.load_state_dict(state.optimizer)
    lines = [line for line in read_metrics(place.folder) if line["step"] <= state.done]
    return state.done, _spending(lines[-1] if lines else {})


def _spending(before: Mapping[str, float]) -> Callable[[], dict[str, float]]:
    """Return what tells the CPU and wall-clock seconds of all the run's steps, resumed or not."""
    cpu_s = time.process_time() - before.get("cpu_s", 0.0)
    wall_s = time.monotonic() - before.get("wall_s", 0.0)
    return lambda: {
        "cpu_s": round(time.process_time() - cpu_s, 1),
        "wall_s": round(time.monotonic() - wall_s, 1),
    }


def _state(
    done: int, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> State:
    return State(
        done=done,
        best_score=-math.inf,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        average=average.state_dict(),
    )


def _share_gradients(model: nn.Module, processes: Processes) -> None:
    """Average gradients over the processes."""
    if processes.count == 1:
        return
    for weight in model.parameters():
        if weight.grad is not None:
            dist.all_reduce(weight.grad)
            weight.grad /= processes.count


@torch.no_grad()
def _average(average: nn.Module, model: nn.Module, decay: float) -> None:
    kept: list[Tensor] = list(average.parameters())
    new: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(kept, new, 1 - decay)
