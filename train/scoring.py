"""Scores of a model on held-out views, scene by scene, and the distribution of its gates.

A batch never crosses a scene, so that sums belong to scenes: a table can then ask whether a
difference holds over scenes, and processes share the scenes among them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vega3d.train.batch import Batch
from vega3d.train.loader import Loader
from vega3d.train.model import SpatialModel
from vega3d.train.order import Sample
from vega3d.train.processes import Processes

GATE_BINS = 50
SceneSums = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Scores:
    """Sums and counts of every metric, by scene; names are `task/metric`."""

    scenes: dict[str, SceneSums]
    primaries: tuple[str, ...]
    """The metric that stands for each task."""
    gate_counts: tuple[int, ...]
    """Valid tokens by their gate, GATE_BINS equal bins over [0, 1]; empty without a gate."""
    gate_mean: float
    """Of all valid tokens; NaN without a gate."""

    def metrics(self) -> dict[str, float]:
        """Return the mean of every metric over all its answers; those without one are left out."""
        totals: dict[str, tuple[float, float]] = {}
        for sums in self.scenes.values():
            for name, (value, count) in sums.items():
                before = totals.get(name, (0.0, 0.0))
                totals[name] = before[0] + value, before[1] + count
        return {name: value / count for name, (value, count) in totals.items() if count}

    def score(self) -> float:
        """Return the mean of the tasks' primary metrics: in [0, 1], 1 best."""
        return _mean_of(self.metrics(), self.primaries)

    def scene_scores(self) -> dict[str, float]:
        """Return the same for every scene alone; NaN where a task had nothing to ask."""
        means = {
            scene: {name: value / count for name, (value, count) in sums.items() if count}
            for scene, sums in self.scenes.items()
        }
        return {scene: _mean_of(found, self.primaries) for scene, found in means.items()}


@torch.no_grad()
def score_model(
    model: SpatialModel,
    loader: Loader,
    samples: Sequence[Sample],
    processes: Processes,
    *,
    batch_size: int,
    amp: bool = False,
    force_gate: float | None = None,
) -> Scores:
    """Score a model on samples; every process gets the scores of all of them."""
    was_training = model.training
    model.eval()
    sums: dict[str, SceneSums] = {}
    gates = np.zeros(GATE_BINS + 1)  # the last number is the sum of the gates
    requests = list(scene_requests(samples, batch_size))[processes.rank :: processes.count]
    for batch in loader.batches(requests):
        targets = model.targets(batch)
        with torch.autocast(batch.gen.device.type, torch.bfloat16, enabled=amp):
            predictions, gate = model(batch, targets, force_gate)
        found = sums.setdefault(batch.scene_ids[0], {})
        for task in model.task_list():
            asked = targets[task.name]
            answers = task.metric_sums(predictions[task.name], asked)
            answers["loss"] = task.loss_sum(predictions[task.name], asked), asked["count"]
            for name, pair in answers.items():
                _add(found, f"{task.name}/{name}", float(pair[0]), float(pair[1]))
        if gate is not None:
            gates += _gate_counts(gate, batch)
    model.train(was_training)
    return _merge(processes.gather((sums, gates)), model)


def scene_requests(samples: Sequence[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Yield batches that do not cross a scene."""
    by_scene: dict[str, list[Sample]] = {}
    for sample in samples:
        by_scene.setdefault(sample.scene_id, []).append(sample)
    for group in by_scene.values():
        for first in range(0, len(group), batch_size):
            yield group[first : first + batch_size]


def _add(sums: SceneSums, name: str, value: float, count: float) -> None:
    before = sums.get(name, (0.0, 0.0))
    sums[name] = before[0] + value, before[1] + count


def _gate_counts(gate: Tensor, batch: Batch) -> np.ndarray:
    values = (
        gate.mean(dim=-1)[batch.valid & batch.asked[..., None]].double().cpu().numpy()
    )  # a channel gate by its mean
    counts, _ = np.histogram(values, bins=GATE_BINS, range=(0, 1))
    return np.append(counts, values.sum())


def _merge(parts: list[tuple[dict[str, SceneSums], np.ndarray]], model: SpatialModel) -> Scores:
    merged: dict[str, SceneSums] = {}
    gates = np.sum([part[1] for part in parts], axis=0)
    for sums, _ in parts:
        for scene, found in sums.items():
            for name, (value, count) in found.items():
                _add(merged.setdefault(scene, {}), name, value, count)
    count = gates[:-1].sum()
    return Scores(
        scenes=dict(sorted(merged.items())),
        primaries=tuple(f"{task.name}/{task.primary}" for task in model.task_list()),
        gate_counts=tuple(int(n) for n in gates[:-1]) if count else (),
        gate_mean=float(gates[-1] / count) if count else math.nan,
    )


def _mean_of(metrics: dict[str, float], names: Sequence[str]) -> float:
    return sum(metrics.get(name, math.nan) for name in names) / len(names)
