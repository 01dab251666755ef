import math

import pytest
import torch
from batches import NAN, batch_of, means, rotation_y

from vega3d.train.tasks.matching import MatchingTask, rotation_angle_deg


def test_matching_by_hand() -> None:
    # View 0 has points A (0 m) and B (1 m); view 1 has B' 6 cm from B, C far off and one unknown.
    xyz = torch.zeros(1, 2, 3, 3)
    xyz[0, 0, :, 0] = torch.tensor([0.0, 1.0, 50.0])
    xyz[0, 1, :, 0] = torch.tensor([1.06, 9.0, 0.0])
    has_depth = torch.tensor([[[True, True, True], [True, True, False]]])
    poses = torch.stack([torch.eye(4), rotation_y(20)])[None]
    task = MatchingTask(8)
    targets = task.targets(batch_of(xyz, has_depth, poses))
    assert targets["count"] == 2  # B asks for B', and B' for B
    cosine = torch.zeros(1, 2, 3, 3)
    cosine[0, 0, 1] = torch.tensor([0.5, 0.2, 0.9])  # the best has no depth and is no candidate
    cosine[0, 1, 0] = torch.tensor([0.8, 0.1, 0.0])  # B' takes A for B
    got = means(task, cosine, targets)
    assert got["recall"] == 0.5
    assert got["recall_rot015_030"] == 0.5
    assert math.isnan(got["recall_rot000_015"])
    assert got["recall_guess"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    t = 0.07
    first = -math.log(math.exp(0.5 / t) / (math.exp(0.5 / t) + math.exp(0.2 / t)))
    every = math.exp(0.8 / t) + math.exp(0.1 / t) + 1
    second = -math.log(math.exp(0.1 / t) / every)
    assert task.loss_sum(cosine, targets).item() == pytest.approx(first + second, rel=1e-5)


def test_matching_counts_every_point_within_the_radius_as_right() -> None:
    xyz = torch.zeros(1, 2, 2, 3)
    xyz[0, 1, :, 0] = torch.tensor([0.09, 0.11])
    targets = MatchingTask(8, radius_m=0.1).targets(batch_of(xyz))
    assert targets["right"][0, 0].tolist() == [[True, False], [True, False]]
    wider = MatchingTask(8, radius_m=0.2).targets(batch_of(xyz))
    assert wider["right"][0, 0].all()


def test_rotation_angle_is_the_angle_turned() -> None:
    poses = torch.stack([rotation_y(10), rotation_y(55), rotation_y(55) * NAN])[None]
    angle = rotation_angle_deg(poses, torch.tensor([0, 0]), torch.tensor([1, 2]))
    assert angle[0, 0].item() == pytest.approx(45, abs=1e-4)
    assert angle[0, 1].isnan()
