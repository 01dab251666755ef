"""The loop: a question at a time through the host, gradients of what was added, exact resume.

A step's loss is the sum over the answers' tokens, of all processes, over their number, so that two
processes make the steps of one. The host stays in evaluation mode: nothing is drawn, and a step is
a function of its number.
"""

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from vega3d.pipeline.errors import UsageError
from vega3d.train.checkpoint import State, load_state, save_state
from vega3d.train.hosts.adapters import Added
from vega3d.train.hosts.captures import Captures
from vega3d.train.hosts.config import HostRun
from vega3d.train.hosts.inputs import IGNORED, Inputs, Writer
from vega3d.train.hosts.loading import Host
from vega3d.train.hosts.plan import HostPlan
from vega3d.train.hosts.prompts import answer_of, question_of
from vega3d.train.journal import Journal, ProgressBar
from vega3d.train.optimizer import NonFiniteLossError, lr_at, make_optimizer, set_lr
from vega3d.train.processes import Processes, StopSignal

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A host with what was added, and what is asked of it."""

    host: Host
    added: Added
    writer: Writer
    captures: Captures
    plan: HostPlan
    identity: dict[str, Any]
    processes: Processes

    @contextlib.contextmanager
    def seeing(self, scene_id: str) -> Iterator[Inputs]:
        """Give the pixels of a scene, and tell the prior inside of the `with` what they are."""
        pixels = self.writer.pixels(self.captures.rgb(scene_id))
        told = [(scene_id, self.captures.views(scene_id))]
        prior = self.added.prior
        with contextlib.nullcontext() if prior is None else prior.views(told):
            yield pixels

    def placed(self, inputs: Inputs) -> Inputs:
        """Return inputs on the host's device, pixels in its precision."""
        dtype = next(self.host.model.parameters()).dtype
        return {
            name: value.to(self.processes.device, dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }


def train_added(ready: Ready, run_dir: Path, run: HostRun) -> bool:
    """Go on to the last step; False where SIGTERM ended it early, all saved."""
    config, processes = ready.plan.config, ready.processes
    optimizer = make_optimizer(ready.added, config)
    done = _resume(ready, run_dir, optimizer)
    journal = Journal(run_dir, done) if processes.is_first else None
    bar = ProgressBar("host", config.steps, done) if processes.is_first else None
    stop = StopSignal()
    try:
        with stop.heard():
            while done < config.steps:
                values, is_asked = _step(ready, optimizer, done, stop)
                done += 1
                is_last = done == config.steps
                if journal and bar:
                    bar.update(done, f"loss {values['loss']:.4f}")
                    if is_last or done % run.log_every == 0:
                        journal.write("train", done, values)
                if is_last or is_asked or done % run.checkpoint_every == 0:
                    _save(ready, run_dir, optimizer, done, journal)
                if is_asked and not is_last:
                    _log.warning("SIGTERM: saved after step %d", done)
                    return False
    finally:
        if journal and bar:
            bar.close()
            journal.close()
    return True


def _step(
    ready: Ready, optimizer: AdamW, done: int, stop: StopSignal
) -> tuple[dict[str, float], bool]:
    """Do one step; return its loss, and whether a process was asked to stop."""
    config, processes = ready.plan.config, ready.processes
    asked = ready.plan.asked(done, processes.rank, processes.count)
    examples = []
    for scene_id, item, turn in asked:
        with ready.seeing(scene_id) as pixels:
            question, answer = question_of(item), answer_of(item, turn)
            examples.append((scene_id, *ready.writer.example(pixels, question, answer)))
    mine = sum(int((labels != IGNORED).sum()) for _, _, labels in examples)
    count = float(processes.total(torch.tensor(float(mine), device=processes.device)))
    set_lr(optimizer, lr_at(done, config))
    optimizer.zero_grad(set_to_none=True)
    loss, gates = torch.zeros((), dtype=torch.float64, device=processes.device), []
    for scene_id, inputs, labels in examples:
        prior = ready.added.prior
        told = [(scene_id, ready.captures.views(scene_id))]
        with contextlib.nullcontext() if prior is None else prior.views(told):
            part = _answer_loss(ready, inputs, labels) / count
            part.backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
        gates += [] if prior is None else [float(gate.mean()) for gate in prior.gates]
    _share_gradients(ready.added, processes)
    norm = nn.utils.clip_grad_norm_(ready.added.parameters(), config.clip_norm or math.inf)
    sums = [float(loss), float(stop.asked), sum(gates), float(len(gates))]
    found = processes.total(torch.tensor(sums, dtype=torch.float64, device=processes.device))
    value, stops, gate, num_gates = found.tolist()
    if not (math.isfinite(value) and math.isfinite(float(norm))):
        scenes = sorted({scene_id for scene_id, *_ in asked})
        raise NonFiniteLossError(
            f"step {done + 1}: the loss is {value} and its gradient {float(norm)}, on scenes such "
            f"as {scenes[:3]}; lower --lr, or check the store with `vega3d-extract verify`"
        )
    optimizer.step()
    values = {"loss": value, "lr": lr_at(done, config), "grad_norm": float(norm)}
    return values | ({"gate_mean": gate / num_gates} if num_gates else {}), bool(stops)


def _answer_loss(ready: Ready, inputs: Inputs, labels: Tensor) -> Tensor:
    """Return the loss summed over the tokens of an answer, in float32."""
    learned = int((labels != IGNORED).sum())
    told = ready.host.model(**ready.placed(inputs), logits_to_keep=learned + 1, use_cache=False)
    logits = told.logits[0, -learned - 1 : -1].float()
    return cross_entropy(logits, labels[0, -learned:].to(logits.device), reduction="sum")


def _share_gradients(added: Added, processes: Processes) -> None:
    """Add up the processes' gradients: each is of its part of one sum."""
    if processes.count == 1:
        return
    for weight in added.parameters():
        if weight.requires_grad:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            dist.all_reduce(weight.grad)


def _save(
    ready: Ready,
    run_dir: Path,
    optimizer: AdamW,
    done: int,
    journal: Journal | None,
) -> None:
    if journal is None:
        return
    journal.sync()
    state = State(
        done=done,
        best_score=-math.inf,
        model=ready.added.state_dict(),
        optimizer=optimizer.state_dict(),
        average=None,
    )
    save_state(run_dir, state, ready.identity)


def _resume(ready: Ready, run_dir: Path, optimizer: AdamW) -> int:
    state = load_state(run_dir, ready.identity)
    done = 0 if state is None else state.done
    if len(set(ready.processes.gather(done))) > 1:
        raise UsageError(
            f"the processes do not see the same checkpoint in {run_dir}: --out must lie on a file "
            "system that all nodes share"
        )
    if state is not None:
        ready.added.load_state_dict(state.model, strict=True)
        optimizer.load_state_dict(state.optimizer)
        _log.info("resuming after step %d", done)
    return done
