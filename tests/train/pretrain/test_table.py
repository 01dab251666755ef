"""The table of probes: answers of rooms, and streams of which we know which one knows more."""

import numpy as np
import pytest
import torch

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.rooms.film import film_room
from vega3d.pipeline.scenes.rooms.truth import LABELS, view_truth
from vega3d.train.pretrain.answers import room_answers
from vega3d.train.pretrain.config import TableConfig
from vega3d.train.pretrain.table import compare_streams

ROOMS = "rooms:12?views=2&height=64&width=80&seed=5"
CONFIG = TableConfig(fitted=6, epochs=300, seeds=(0,))


def test_answers_are_those_of_the_pixels() -> None:
    answers = room_answers(ROOMS, (4, 5))
    truth = view_truth(film_room((5, 3), 2, 64, 80), 1)
    cell = slice(16, 32), slice(32, 48)
    at = 3, 1, 1, 2
    assert answers.log_depth[at].exp() == pytest.approx(np.median(truth.depth_m[cell]), rel=1e-5)
    counts = np.bincount(truth.label[cell].ravel(), minlength=len(LABELS))
    assert answers.label[at] == counts.argmax()
    mean = truth.normal[cell].mean((0, 1))
    np.testing.assert_allclose(answers.normal[at], mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.slow
def test_a_stream_that_knows_the_answers_gains_on_noise_and_noise_on_nothing() -> None:
    answers = room_answers(ROOMS, (4, 5))
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(*answers.label.shape, 8, generator=rng)
    one_hot = torch.nn.functional.one_hot(answers.label, len(LABELS)).float()
    knows = torch.cat([answers.log_depth[..., None], answers.normal, one_hot], -1)
    pairs = [("knows", "noise"), ("noise", "position"), ("noise+knows", "noise")]
    found = compare_streams({"knows": knows, "noise": noise}, answers, pairs, CONFIG)
    assert found["scored_rooms"] == 6
    assert found["scores"]["knows"]["depth_r2"] > 0.6
    assert found["scores"]["knows"]["normal_deg"] < 20
    for name in ("depth_r2", "normal_deg", "object_accuracy"):
        assert found["differences"]["knows - noise"][name]["verdict"] == "gain"
        assert found["differences"]["noise+knows - noise"][name]["verdict"] == "gain"
        assert found["differences"]["noise - position"][name]["verdict"] != "gain"


def test_scenes_that_leave_none_to_score_are_refused() -> None:
    answers = room_answers("rooms:2?views=1&height=64&width=80", (4, 5))
    with pytest.raises(UsageError, match="there are 2 scenes, and probes take 6"):
        compare_streams({}, answers, [("position", "position")], CONFIG)
