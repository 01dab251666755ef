"""A training as a function of its own process: see `processes.start`."""

import sys
import time

import torch

from vega3d.train import RunConfig, TrainConfig, fit
from vega3d.train.trainer import Trainer

STOPPED = 3
"""Exit code of a run that has steps left."""


def fit_in_a_process(
    prior: str, semantic: str, out: str, config: TrainConfig, run: RunConfig, slow_s: float = 0
) -> None:
    """Train with one thread, each step so much later."""
    torch.set_num_threads(1)
    if slow_s:
        step = Trainer._step

        def slow(self: Trainer, batches: object) -> object:
            time.sleep(slow_s)
            return step(self, batches)

        Trainer._step = slow
    sys.exit(0 if fit(prior, semantic, out, config, run)["finished"] else STOPPED)
