"""One loop for all models that are trained here: steps, averaged weights, exact resume, metrics."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vega3d.pipeline.errors import UsageError
from vega3d.train.checkpoint import State, load_state, save_state
from vega3d.train.journal import Journal, read_metrics
from vega3d.train.pretrain.config import PretrainRun, Recipe
from vega3d.train.processes import Processes
from vega3d.train.trainer import NonFiniteLossError

_log = logging.getLogger(__name__)
Loss = Callable[[nn.Module, int], Tensor]
"""The loss of this process's part of a step's batch: a pure function of the step's number."""

Probe = Callable[[nn.Module], dict[str, float]]


def train(
    model: nn.Module,
    loss: Loss,
    probe: Probe,
    recipe: Recipe,
    run: PretrainRun,
    run_dir: Path,
    identity: dict[str, Any],
    processes: Processes,
) -> nn.Module:
    """Train a model as far as the recipe says, and return it with the averaged weights.

    Repeat the call to resume: the steps are those of the undisturbed run, bit for bit on the same
    machine, since a step's batch and noise come from its number alone.
    """
    model.to(processes.device).train()
    average = deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(_groups(model, recipe), lr=recipe.lr, betas=(0.9, 0.97))
    done, cpu_s = _resume(model, average, optimizer, run_dir, identity, recipe)
    begun = time.process_time() - cpu_s
    losses: list[float] = []
    with _journal(run_dir, done, processes) as journal:
        for step in range(done, recipe.steps):
            losses.append(_step(model, average, optimizer, loss, step, recipe, processes))
            finished, is_last = step + 1, step + 1 == recipe.steps
            if journal is None:
                continue
            spent = {"cpu_s": round(time.process_time() - begun, 1)}
            if is_last or finished % run.log_every == 0:
                _write(journal, "train", finished, {"loss": _mean(losses, finished), **spent})
                losses = []
            if is_last or finished % recipe.probe_every == 0:
                _write(journal, "val", finished, {**probe(average), **spent})
            if is_last or finished % run.save_every == 0:
                journal.sync()
                save_state(run_dir, _state(finished, model, average, optimizer), identity)
    return average


def _step(
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    step: int,
    recipe: Recipe,
    processes: Processes,
) -> float:
    """Make one step, and return the loss over all processes."""
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
    return float(processes.total(value.detach())) / processes.count


def _mean(losses: list[float], step: int) -> float:
    mean = sum(losses) / len(losses)
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


def _resume(
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    run_dir: Path,
    identity: dict[str, Any],
    recipe: Recipe,
) -> tuple[int, float]:
    """Load the last state, if there is one; return the finished steps and their CPU seconds."""
    state = load_state(run_dir, identity)
    if state is None or state.average is None:
        return 0, 0.0
    if recipe.steps < state.done:
        raise UsageError(f"{run_dir} has {state.done} steps already; give that many or more")
    model.load_state_dict(state.model)
    average.load_state_dict(state.average)
    optimizer.load_state_dict(state.optimizer)
    spent = [line["cpu_s"] for line in read_metrics(run_dir) if line["step"] <= state.done]
    return state.done, float(spent[-1]) if spent else 0.0


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
