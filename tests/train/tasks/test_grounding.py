"""The head of grounding: what it reads from candidates' tokens, and what it cannot know without."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from toy_scenes import learned

from vega3d.pipeline.backbones.text import embed_texts
from vega3d.train.tasks.grounding import GroundingTask
from vega3d.train.tasks.relations import place_errors
from vega3d.train.tasks.task import Targets

CLASSES = ("chair", "table", "lamp", "door", "shelf", "sofa")
DIM = 32


def test_places_are_compared_up_to_where_the_scene_lies() -> None:
    real = [[1.0, 0, 0, 1, 1, 1], [3, 0, 0, 1, 1, 1], [9, 9, 9, 1, 1, 1]]
    boxes = torch.tensor([real, 3 * [6 * [torch.nan]]])
    known = torch.tensor([[True, True, False], [False, False, False]])
    told = torch.tensor([[[5.0, 2, 0], [7, 2, 0.6], [0, 0, 0]], 3 * [[1.0, 1, 1]]])
    told.requires_grad_()
    errors = place_errors(told, boxes, known)
    # The same 2 m apart; heights 0.3 off either way: (0.3 + 0.3) / (2 places of 3 numbers).
    torch.testing.assert_close(errors, torch.tensor([0.1, 0.0]))
    errors.sum().backward()
    assert told.grad is not None
    assert told.grad.isfinite().all()
    assert (told.grad[:, 2] == 0).all()


def test_a_box_without_tokens_and_a_padded_one_change_no_score() -> None:
    torch.manual_seed(0)
    task = GroundingTask(DIM, 512)
    torch.nn.init.normal_(task.relations.wanted.weight)
    tokens, targets = scenes(np.random.default_rng(0), count=2, places=True)
    scores = task(tokens, targets).scores
    assert scores.shape == (2, 8, 7)
    more = torch.full((2, 3, 6), torch.nan)
    padded = {**targets, "boxes": torch.cat([targets["boxes"], more], dim=1)}
    again = task(tokens, padded).scores
    torch.testing.assert_close(again[..., [*range(6), 9]], scores)


@pytest.mark.slow
@pytest.mark.parametrize("places", [True, False])
def test_the_chair_closest_to_the_door_is_found_from_tokens_that_know_places(places: bool) -> None:
    """Two chairs a scene, asked by what they are near to; boxes are told, and never read."""
    torch.manual_seed(0)
    steps = 200 if places else 60  # what is not there is not learned in any number
    draw = partial(scenes, places=places)
    right = learned(
        GroundingTask(DIM, 512), draw, steps=steps, count=16, lr=1e-2, answers=slice(-1)
    )
    assert right > 0.8 if places else right < 0.65


def scenes(rng: np.random.Generator, count: int, *, places: bool) -> tuple[torch.Tensor, Targets]:
    """Scenes of two chairs and four other things, a token a thing: its class, and maybe its place.

    Each of the eight descriptions names one of the others as what a chair is near to or far from.
    """
    looks = np.random.default_rng(7).normal(size=(len(CLASSES), DIM // 2))
    axes = np.random.default_rng(8).normal(size=(3, DIM // 2))
    kinds = np.stack([[0, 0, *(1 + rng.permutation(5)[:4])] for _ in range(count)])
    xyz = rng.uniform(-3, 3, size=(count, 6, 3)) * [1, 1, 0.2]
    told = (xyz if places else np.zeros_like(xyz)) @ axes
    tokens = np.concatenate([looks[kinds], told], axis=-1)[:, None].astype(np.float32)
    texts, right = [], np.zeros((count, 8, 7), bool)
    for scene in range(count):
        for number in range(8):
            near, anchor = number % 2 == 0, 2 + number // 2
            gaps = np.linalg.norm(xyz[scene, :2] - xyz[scene, anchor], axis=-1)
            right[scene, number, gaps.argmin() if near else gaps.argmax()] = True
            way, name = "closest to" if near else "farthest from", CLASSES[kinds[scene, anchor]]
            texts.append(vector(f"this is the chair that is {way} the {name}"))
    boxes = np.concatenate([xyz, np.full_like(xyz, 0.4)], axis=-1).astype(np.float32)
    known = torch.ones(count, 6, dtype=torch.bool)
    return torch.from_numpy(tokens), {
        "text": torch.from_numpy(np.stack(texts)).reshape(count, 8, -1),
        "boxes": torch.from_numpy(boxes),
        "xyz": torch.from_numpy(xyz.astype(np.float32)),
        "has_depth": known,
        "right": torch.from_numpy(right),
        "open": torch.ones(count, 8, 7, dtype=torch.bool),
        "learnable": torch.ones(count, 8, dtype=torch.bool),
    }


@cache
def vector(text: str) -> np.ndarray:
    return embed_texts("words", [text])[0]
