import math

import numpy as np
import pytest
import torch
from batches import batch_of, means

from vega3d.train.tasks.displacement import DisplacementTask


def test_displacement_metrics_by_hand() -> None:
    # One pair: right 3 cm (too small to ask), down 30 cm, away 40 cm; length about 50 cm.
    task = DisplacementTask(8)
    step = torch.tensor([[[[0.0, 0.3, 0.4]]]])
    targets = {"step_m": step, "asked": torch.ones(1, 1, 1, dtype=torch.bool)}
    # Said 0.39 m away and 0.17 m up: above for below, length 0.425 m, 15 % off.
    said = torch.tensor([[[[0.0, -0.17, 0.39]]]])
    length = math.hypot(0.17, 0.39)
    relative = (0.5 - length) / 0.5  # 0.149: within 0.5 .. 0.15, so 8 of the 10 limits
    assert 0.1 < relative < 0.15
    got = means(task, said, targets)
    assert got["mra"] == pytest.approx(0.8)
    assert math.isnan(got["left_right"])
    assert got["above_below"] == 0
    assert got["nearer_farther"] == 1
    # Errors 0, 0.47, 0.01; the round part below 0.1 is x^2 / 0.2, above it x - 0.05.
    want = 0.47 - 0.05 + 0.01**2 / 0.2
    assert task.loss_sum(said, targets).item() == pytest.approx(want, rel=1e-5)


def test_mra_counts_a_tie_as_right_as_the_official_code_does() -> None:
    task = DisplacementTask(8)
    targets = {
        "step_m": torch.tensor([[[[0.0, 0.0, 4.0]]]]),
        "asked": torch.ones(1, 1, 1, dtype=torch.bool),
    }
    for said_m in (2.0, 3.0, 4.0, 4.5, 5.0, 6.0, 7.0):  # errors of 1/2, 1/4, 0, 1/8, 1/4, ...
        official = (abs(said_m - 4.0) / 4.0 <= 1 - np.linspace(0.5, 0.95, 10)).mean()
        got = means(task, torch.tensor([[[[0.0, 0.0, said_m]]]]), targets)
        assert got["mra"] == official, said_m


def test_displacement_pairs_come_from_the_seed_and_skip_tokens_without_depth() -> None:
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(2, 3, 12, 3, generator=generator) + 1
    has_depth = torch.rand(2, 3, 12, generator=generator) > 0.4
    task = DisplacementTask(8)
    batch = batch_of(xyz, has_depth)
    targets = task.targets(batch)
    for b, v, p in np.ndindex(2, 3, 64):
        start, end = targets["start"][b, v, p], targets["end"][b, v, p]
        usable = bool(has_depth[b, v, start] and has_depth[b, v, end] and start != end)
        assert bool(targets["asked"][b, v, p]) == usable
        if usable:
            torch.testing.assert_close(
                targets["step_m"][b, v, p], xyz[b, v, end] - xyz[b, v, start]
            )
    assert targets["count"] == targets["asked"].sum() > 0
    again = task.targets(batch)
    assert torch.equal(targets["start"], again["start"])
