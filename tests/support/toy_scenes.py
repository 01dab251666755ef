"""Toy scenes to learn a task from: how often it is right about scenes that it has not seen."""

from collections.abc import Callable

import numpy as np
import torch

from vega3d.train.tasks.task import Targets, Task

Scenes = Callable[[np.random.Generator, int], tuple[torch.Tensor, Targets]]
"""Draws so many scenes: their tokens, and what is asked."""


def learned(
    task: Task, scenes: Scenes, *, steps: int, count: int, lr: float, answers: slice = slice(None)
) -> float:
    """Train on scenes drawn anew each step, and return the share of right answers about others.

    Args:
        task: Its prediction has `scores`.
        scenes: Draws them.
        steps: Of training; the rate falls along a cosine.
        count: Scenes of a step.
        lr: First rate.
        answers: Which of the scores may be chosen.
    """
    rng = np.random.default_rng(1)
    optimizer = torch.optim.AdamW(task.parameters(), lr=lr)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        tokens, targets = scenes(rng, count)
        loss = task.loss_sum(task(tokens, targets), targets) / targets["learnable"].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        rate.step()
    tokens, targets = scenes(rng, 60)
    with torch.no_grad():
        chosen = task(tokens, targets).scores[..., answers].argmax(dim=-1)
    return float(targets["right"].gather(-1, chosen[..., None]).float().mean())
