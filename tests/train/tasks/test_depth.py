import math

import pytest
import torch
from batches import batch_of, means

from vega3d.train.tasks.depth import DepthTask


def test_depth_metrics_by_hand() -> None:
    # Depths 1, 2, 4 and one unknown; said 1.2, 2, 6, 99: errors 20 %, 0, 50 %; 6 / 4 is over 1.25.
    depth = torch.tensor([1.0, 2.0, 4.0, 0.0])
    xyz = torch.stack([torch.zeros(4), torch.zeros(4), depth], dim=-1)[None, None]
    task = DepthTask(8)
    targets = task.targets(batch_of(xyz, has_depth=depth[None, None] > 0))
    said = torch.tensor([1.2, 2.0, 6.0, 99.0]).log()[None, None]
    assert targets["count"] == 3
    got = means(task, said, targets)
    assert got["absrel"] == pytest.approx((0.2 + 0 + 0.5) / 3)
    assert got["delta125"] == pytest.approx(2 / 3)
    assert task.loss_sum(said, targets).item() == pytest.approx(math.log(1.2) + math.log(1.5))
