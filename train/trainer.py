"""The training loop: steps, scores, checkpoints, and the way back in after a kill.

Nothing draws from a global random generator: order, pairs and dropout are functions of seed, epoch
and sample, so a checkpoint holds weights, optimiser and the number of finished steps, and that is
all that a bit-identical resume needs.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vega3d.pipeline.errors import UsageError
from vega3d.train.batch import Batch
from vega3d.train.checkpoint import (
    State,
    load_state,
    save_state,
    save_weights,
    take_weights,
    write_json,
)
from vega3d.train.config import RunConfig
from vega3d.train.journal import Journal, ProgressBar
from vega3d.train.loader import Loader, kept_features
from vega3d.train.model import SpatialModel
from vega3d.train.optimizer import (
    NonFiniteLossError,
    lr_at,
    make_average,
    make_optimizer,
    set_lr,
)
from vega3d.train.order import Sample
from vega3d.train.processes import Processes, StopSignal
from vega3d.train.rundir import BEST, LAST, RunPlan
from vega3d.train.scoring import Scores, score_model
from vega3d.train.streams import FeatureCache
from vega3d.train.tasks.task import Targets

_log = logging.getLogger(__name__)


class Trainer:
    """One run on one process; its peers, if any, do the same steps on their parts of a batch."""

    def __init__(self, plan: RunPlan, run_dir: Path, run: RunConfig, processes: Processes) -> None:
        """Build the model and go back to the last checkpoint, if there is one.

        Raises:
            UsageError: The batch cannot be shared among processes and accumulated parts, or the
                processes see different checkpoints.
        """
        self.plan, self.config, self.run, self.processes = plan, plan.config, run, processes
        self.part_size = _part_size(plan, processes)
        self.run_dir = run_dir
        self._identity = plan.identity()
        self.model = plan.build_model().to(processes.device)
        self.optimizer = make_optimizer(self.model, self.config)
        self.average = make_average(self.model, self.config)
        self.done = 0
        self.best_score = -math.inf
        self.scores: Scores | None = None
        self.tokens_per_s = 0.0
        self._resume()
        if len(set(processes.gather(self.done))) > 1:
            raise UsageError(
                f"the processes do not see the same checkpoint in {run_dir}: --out must lie on a "
                "file system that all nodes share"
            )
        self._net: nn.Module = self.model
        if processes.count > 1:
            self._net = DistributedDataParallel(self.model)
        self._cache = FeatureCache(run.cache_bytes)
        self._kept = kept_features(plan.pairing, run.keep_features, processes.device)
        self._stop = StopSignal()
        # All seeds of a table are asked the same pairs.
        self.scoring_loader = self.make_loader(self.config.split_seed)

    @property
    def scored_model(self) -> SpatialModel:
        """The model that is scored and saved: the average where there is one."""
        if self.average is None:
            return self.model
        averaged = self.average.module
        assert isinstance(averaged, SpatialModel)
        return averaged

    def make_loader(self, seed: int) -> Loader:
        """Return a loader of this run's stores, sharing its cache."""
        return Loader(
            self.plan.pairing,
            min_depth_share=self.config.min_depth_share,
            seed=seed,
            workers=self.run.workers,
            prefetch=self.run.prefetch,
            cache=self._cache,
            device=self.processes.device,
            questions=self.plan.pairing.asks(self.config),
            kept=self._kept,
        )

    def train(self) -> bool:
        """Go on to the last step; False where SIGTERM ended it early, all saved."""
        first = self.processes.is_first
        self._journal = Journal(self.run_dir, self.done) if first else None
        bar = ProgressBar(self.config.variant, self.config.steps, self.done) if first else None
        batches = self.make_loader(self.config.seed).batches(
            self._requests(), hold=self.config.accumulate
        )
        try:
            with self._stop.heard():
                return self._steps(batches, bar)
        finally:
            batches.close()
            if bar is not None:
                bar.close()
            if self._journal is not None:
                self._journal.close()

    def score(self) -> Scores:
        """Score the held-out views."""
        return score_model(
            self.scored_model,
            self.scoring_loader,
            self.plan.scoring,
            self.processes,
            batch_size=self.part_size,
            amp=self.config.amp,
        )

    def _requests(self) -> Iterator[list[Sample]]:
        size, parts = self.part_size, self.config.accumulate
        for step in range(self.done, self.config.steps):
            first = step * self.config.batch_size + self.processes.rank * size * parts
            for part in range(parts):
                yield self.plan.order.samples(first + part * size, size)

    def _steps(self, batches: Iterator[Batch], bar: ProgressBar | None) -> bool:
        since_s, since_step = time.monotonic(), self.done
        while self.done < self.config.steps:
            values, stop = self._step(batches)
            self.done += 1
            last = self.done == self.config.steps
            if last or self.done % self.run.log_every == 0:
                now_s = time.monotonic()
                rate = self._tokens(self.done - since_step) / max(now_s - since_s, 1e-9)
                since_s, since_step, self.tokens_per_s = now_s, self.done, rate
                self._write("train", {**values, "tokens_per_s": rate})
            if bar is not None:
                bar.update(
                    self.done, f"loss {values['loss']:.4f}, {self.tokens_per_s:.0f} tokens/s"
                )
            if last or self.done % self.run.eval_every == 0:
                self._score_and_save()
                since_s, since_step = time.monotonic(), self.done
            if last or stop or self.done % self.run.checkpoint_every == 0:
                self._save()
            if stop and not last:
                _log.warning("SIGTERM: saved after step %d", self.done)
                return False
        return True

    def _step(self, batches: Iterator[Batch]) -> tuple[dict[str, float], bool]:
        """Do one optimiser step; return its losses, and whether a process was asked to stop."""
        parts = [next(batches) for _ in range(self.config.accumulate)]
        asked = [self.model.targets(part) for part in parts]
        tasks = self.model.task_list()
        mine = torch.stack([sum_of(a[task.name]["count"] for a in asked) for task in tasks])
        counts = self.processes.total(mine.double()).clamp(min=1)
        set_lr(self.optimizer, lr_at(self.done, self.config))
        self.optimizer.zero_grad(set_to_none=True)
        sums = self._backward(parts, asked, counts)
        stop = torch.tensor([float(self._stop.asked)], dtype=torch.float64, device=sums.device)
        totals = self.processes.total(torch.cat([sums, stop]))
        means = dict(zip([t.name for t in tasks], (totals[:-1] / counts).tolist(), strict=True))
        self._check_finite("loss", means, parts)
        norm = self._clip()
        self._check_finite("gradient", {"norm": norm}, parts)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        values = {
            "loss": sum(means.values()),
            "lr": lr_at(self.done, self.config),
            "grad_norm": norm,
        }
        return values | {f"loss/{name}": value for name, value in means.items()}, bool(totals[-1])

    def _backward(
        self, parts: list[Batch], asked: list[dict[str, Targets]], counts: Tensor
    ) -> Tensor:
        """Add up the gradient of the losses per answer; return this process's loss sums."""
        tasks, sums = self.model.task_list(), torch.zeros_like(counts)
        for index, (part, targets) in enumerate(zip(parts, asked, strict=True)):
            with self._quiet(last=index == len(parts) - 1):
                with torch.autocast(part.gen.device.type, torch.bfloat16, enabled=self.config.amp):
                    predictions, _ = self._net(part, targets)
                losses = torch.stack(
                    [t.loss_sum(predictions[t.name], targets[t.name]).double() for t in tasks]
                )
                # The processes' gradients are averaged: times their number, it is the sum.
                ((losses / counts).sum() * self.processes.count).backward()  # type: ignore[no-untyped-call]
            sums += losses.detach()
        return sums

    def _clip(self) -> float:
        limit = self.config.clip_norm or math.inf
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))

    def _quiet(self, last: bool) -> AbstractContextManager[Any]:
        if last or not isinstance(self._net, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._net.no_sync()

    def _check_finite(self, what: str, values: dict[str, float], parts: list[Batch]) -> None:
        """Stop before a broken number reaches the weights; all processes see the same values."""
        if all(math.isfinite(value) for value in values.values()):
            return
        self._stop_run(what, values, parts, step=self.done + 1)

    def _stop_run(
        self, what: str, values: dict[str, float], parts: list[Batch], *, step: int
    ) -> NoReturn:
        broken = {name for part in parts for name in _broken_scenes(part)}
        gathered = self.processes.gather(sorted(broken))
        batch = self.plan.order.samples((step - 1) * self.config.batch_size, self.config.batch_size)
        path = self.run_dir / f"nonfinite_step_{step}.json"
        found: dict[str, Any] = {
            "step": step,
            "what": what,
            "values": {name: repr(value) for name, value in values.items()},
            "samples": [{"scene_id": s.scene_id, "views": list(s.views)} for s in batch],
            "scenes_with_nonfinite_features": sorted(
                {name for names in gathered for name in names}
            ),
        }
        if self.processes.is_first:
            write_json(path, found)
        raise NonFiniteLossError(
            f"the {what} of step {step} is not finite ({found['values']}); the batch's "
            f"{len(batch)} samples are in {path}, {len(found['scenes_with_nonfinite_features'])} "
            "scenes among them have features that are not finite. Check those scenes with "
            "`vega3d-extract verify`, or lower --lr"
        )

    def _score_and_save(self) -> None:
        self.scores = self.score()
        values = self.scores.metrics() | {"score": self.scores.score()}
        losses = {name: value for name, value in values.items() if name.endswith("/loss")}
        if not all(math.isfinite(value) for value in losses.values()):
            self._stop_run("loss on the scored views, after the update", losses, [], step=self.done)
        if not math.isnan(self.scores.gate_mean):
            values["gate_mean"] = self.scores.gate_mean
        self._write("val", {name: v for name, v in values.items() if math.isfinite(v)})
        if not self.processes.is_first:
            return
        save_weights(self.run_dir / LAST, self.scored_model, self._identity)
        if values["score"] > self.best_score:
            self.best_score = values["score"]
            save_weights(self.run_dir / BEST, self.scored_model, self._identity)

    def _save(self) -> None:
        if self._journal is None:
            return
        self._journal.sync()
        state = State(
            done=self.done,
            best_score=self.best_score,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            average=None if self.average is None else self.average.state_dict(),
        )
        save_state(self.run_dir, state, self._identity)

    def _resume(self) -> None:
        state = load_state(self.run_dir, self._identity)
        if state is None:
            return
        take_weights(self.model, state.model, f"{self.run_dir}: the checkpoint")
        self.optimizer.load_state_dict(state.optimizer)
        if self.average is not None and state.average is not None:
            self.average.load_state_dict(state.average, strict=True)
        self.done, self.best_score = state.done, state.best_score
        _log.info("resuming after step %d", self.done)

    def _write(self, kind: str, values: dict[str, float]) -> None:
        if self._journal is not None:
            self._journal.write(kind, self.done, values)

    def _tokens(self, steps: int) -> int:
        rows, cols = self.plan.pairing.grid
        return steps * self.config.batch_size * self.config.views_per_sample * rows * cols


def sum_of(values: Iterator[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape."""
    first, *rest = values
    return sum(rest, start=first)


def _part_size(plan: RunPlan, processes: Processes) -> int:
    config = plan.config
    parts = config.accumulate * processes.count
    if config.batch_size % parts:
        raise UsageError(
            f"batch_size must be a multiple of processes x accumulate = {processes.count} x "
            f"{config.accumulate}, got {config.batch_size}"
        )
    return config.batch_size // parts


def _broken_scenes(batch: Batch) -> list[str]:
    finite = (batch.gen.isfinite().all(-1) & batch.sem.isfinite().all(-1)) | ~batch.valid
    good = finite.flatten(1).all(dim=1).tolist()
    return [name for name, fine in zip(batch.scene_ids, good, strict=True) if not fine]
