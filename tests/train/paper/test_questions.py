"""What is read from features that hold the answer, and from features that hold nothing."""

import numpy as np
import pytest
import torch

from vega3d.pipeline.scenes.rooms.truth import LABELS
from vega3d.train.paper.questions import Rooms, blind_scores, score_stream
from vega3d.train.pretrain.answers import Answers
from vega3d.train.pretrain.config import TableConfig

S, V, H, W = 12, 2, 4, 5
CONFIG = TableConfig(fitted=8, epochs=150, seeds=(0,))


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    """Every view of a room sees the same points, in another order."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(S, 1, H * W, 3, generator=generator) * 4 + torch.tensor([0.0, 0.0, 1.0])
    order = torch.stack(
        [torch.stack([torch.randperm(H * W, generator=generator) for _ in range(V)])] * S
    )
    xyz = points.expand(-1, V, -1, -1).gather(2, order[..., None].expand(-1, -1, -1, 3))
    xyz = xyz.reshape(S, V, H, W, 3)
    normal = torch.nn.functional.normalize(torch.randn(xyz.shape, generator=generator), dim=-1)
    answers = Answers(
        log_depth=xyz[..., 2].log(),
        normal=normal,
        is_flat=torch.ones(S, V, H, W, dtype=torch.bool),
        label=torch.randint(len(LABELS), (S, V, H, W), generator=generator),
        is_object=torch.ones(S, V, H, W, dtype=torch.bool),
    )
    return Rooms(answers=answers, xyz=xyz, camera=xyz, deep=np.ones((S, V, H, W), bool))


@pytest.mark.slow
def test_features_that_hold_the_answer_are_read(rooms: Rooms) -> None:
    found = score_stream([[torch.cat([rooms.xyz, rooms.answers.normal], -1)]], rooms, CONFIG)
    assert found["depth_r2"].shape == (1, S - CONFIG.fitted)
    assert found["depth_r2"].mean() > 0.9
    assert found["displacement_r2"].mean() > 0.9
    assert found["normal_deg"].mean() < 30


def test_the_same_points_are_matched_by_what_says_where_they_are(rooms: Rooms) -> None:
    quick = TableConfig(fitted=8, epochs=1, seeds=(0,))
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(rooms.xyz.shape, generator=generator)
    told, blind = (score_stream([[part]], rooms, quick) for part in (rooms.xyz, noise))
    assert told["matching_recall"].mean() == 1.0
    assert blind["matching_recall"].mean() < 0.3


def test_position_alone_is_not_matched_and_blindness_is_near_zero(rooms: Rooms) -> None:
    quick = TableConfig(fitted=8, epochs=1, seeds=(0,))
    assert "matching_recall" not in score_stream([[]], rooms, quick)
    blind = blind_scores(rooms, quick)
    assert blind["depth_r2"].mean() == pytest.approx(0, abs=0.15)
    assert blind["displacement_r2"].mean() == pytest.approx(0, abs=0.15)
    assert blind["normal_deg"].mean() == pytest.approx(90, abs=15)
