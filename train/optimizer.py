"""AdamW with warm-up and a cosine, decay for matrices only, and an averaged copy on request."""

import math
from typing import Protocol

from torch import nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vega3d.pipeline.errors import UsageError
from vega3d.train.config import TrainConfig


class NonFiniteLossError(UsageError):
    """A loss or gradient is NaN or infinite; the batch's scenes are saved beside the run."""

    exit_code = 1
    """Of the command line: not a wrong usage."""


class Schedule(Protocol):
    """What a config says of the optimiser."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""

    @property
    def lr(self) -> float:
        """Peak learning rate."""

    @property
    def warmup(self) -> float:
        """Share of the steps with a rising rate."""

    @property
    def weight_decay(self) -> float:
        """Of matrices only."""


def make_optimizer(model: nn.Module, config: Schedule) -> AdamW:
    """Return AdamW; matrices decay, biases, norms and single numbers do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=config.lr)


def lr_at(step: int, config: Schedule) -> float:
    """Return the learning rate of a step, from 0: a rising line, then a cosine to zero."""
    warm = math.ceil(config.warmup * config.steps)
    if step < warm:
        return config.lr * (step + 1) / warm
    done = (step - warm) / max(1, config.steps - warm)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def set_lr(optimizer: AdamW, lr: float) -> None:
    """Use this rate at the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def make_average(model: nn.Module, config: TrainConfig) -> AveragedModel | None:
    """Return a copy of the model that will hold its exponential average; None where it is off."""
    if config.ema == 0:
        return None
    average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average)
