import math

import pytest
import torch
from batches import batch_of, means

from vega3d.train.tasks.classes import ClassesTask


def test_classes_ask_labelled_tokens_only() -> None:
    labels = torch.tensor([[[0, 1, 2, -1]]])
    xyz = torch.ones(1, 1, 4, 3)
    task = ClassesTask(8, num_classes=3)
    targets = task.targets(batch_of(xyz, labels=labels))
    logits = torch.zeros(1, 1, 4, 3)
    logits[0, 0, 1, 1] = 1.0
    got = means(task, logits, targets)
    assert got["accuracy"] == pytest.approx(2 / 3)  # a tie goes to class 0
    want = 2 * math.log(3) - math.log(math.e / (math.e + 2))
    assert task.loss_sum(logits, targets).item() == pytest.approx(want, rel=1e-5)
    with pytest.raises(ValueError, match="needs a label store: pass --labels"):
        task.targets(batch_of(xyz))
