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
from vega3d.train.checkpoint import load_state, save_state
from vega3d.train.journal import Journal
from vega3d.train.pretrain.config import PretrainRun, Recipe
from vega3d.train.processes import Processes

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
    processes: Processes,
) -> nn.Module:
    """Train a model as far as the recipe says, and return it with the averaged weights.

    Repeat the call to resume: the steps are those of the undisturbed run, bit for bit on the same
    machine, since a step's batch and noise come from its number alone.
    """
    model.to(processes.device).train()
    average = deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(_groups(model, recipe), lr=recipe.lr, betas=(0.9, 0.97))
    done, cpu_s = _resume(model, average, optimizer, run_dir, recipe, processes)
    journal = Journal(run_dir, done) if processes.is_first else None
    begun = time.process_time() - cpu_s
    losses: list[float] = []
    for step in range(done, recipe.steps):
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
        losses.append(float(processes.total(value.detach())) / processes.count)
        finished = step + 1
        spent = {"cpu_s": round(time.process_time() - begun, 1)}
        if journal and (finished % run.log_every == 0 or finished == recipe.steps):
            mean = sum(losses) / len(losses)
            if not math.isfinite(mean):
                raise ValueError(f"step {finished}: the loss is {mean}; lower the rate")
            journal.write("train", finished, {"loss": mean, **spent})
            _log.info(
                "%s step %d loss %.4f cpu %.0f s", run_dir.name, finished, mean, spent["cpu_s"]
            )
            losses = []
        if journal and (finished % recipe.probe_every == 0 or finished == recipe.steps):
            scores = probe(average)
            journal.write("val", finished, {**scores, **spent})
            _log.info("%s step %d %s", run_dir.name, finished, scores)
        if journal and (finished % run.save_every == 0 or finished == recipe.steps):
            journal.sync()
            state: dict[str, Any] = {"step": finished, **spent, "model": model.state_dict()}
            state |= {"average": average.state_dict(), "optimizer": optimizer.state_dict()}
            save_state(run_dir, state)
    if journal:
        journal.close()
    return average


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
    recipe: Recipe,
    processes: Processes,
) -> tuple[int, float]:
    """Load the last state, if there is one; return the finished steps and their CPU seconds."""
    state = load_state(run_dir, processes.device)
    if state is None:
        return 0, 0.0
    if recipe.steps < state["step"]:
        raise UsageError(f"{run_dir} has {state['step']} steps already; give that many or more")
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["cpu_s"])


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
