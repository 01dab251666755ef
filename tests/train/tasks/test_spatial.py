"""What VSI-Bench's and the QA benchmarks' heads read from places, and cannot know without."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from toy_scenes import learned

from vega3d.pipeline.backbones.text import embed_texts
from vega3d.train.phrases import MOST, phrases
from vega3d.train.tasks.spatial import SpatialReader, sizes, turns, ways
from vega3d.train.tasks.task import Targets
from vega3d.train.tasks.telling import Telling, Told, found, seen_looks, spoken_look
from vega3d.train.tasks.vsi import VsiTask

CLASSES = (
    "chair", "table", "lamp", "door", "shelf", "sofa",
    "bed", "plant", "crate", "barrel", "ball", "rug",
)  # fmt: skip
DIM = 32


def moments(*points: tuple[float, float, float]) -> torch.Tensor:
    xyz = torch.tensor(points, dtype=torch.float32)
    product = (xyz[:, 0] * xyz[:, 1])[:, None]
    return torch.cat([xyz, xyz.square(), product], dim=-1).mean(dim=0)


def test_turns_are_seen_from_above_and_positive_to_the_left() -> None:
    # From the origin, facing along x: left is y, and heights say nothing. By 3-4-5.
    places = torch.tensor([[0.0, 0, 0], [5, 0, 2], [0, 0, 1], [3, 4, -1]])
    left, front, ahead, away = turns(places[None, None, None])[0, 0, 0]
    assert left.item() == pytest.approx(4 / 5, abs=0.01)
    assert front.item() == pytest.approx(3 / 5, abs=0.01)
    for length in (ahead, away):
        assert length.exp().item() == pytest.approx(5, abs=0.02)
    mirrored = places * torch.tensor([1.0, -1, 1])
    assert turns(mirrored[None, None, None])[0, 0, 0, 0].item() == pytest.approx(-left.item())


def test_ways_and_sizes_by_hand() -> None:
    one, other = found(moments((0, 0, 0), (2, 0, 0))), found(moments((1, 3, 4)))
    apart = ways(one, other)
    torch.testing.assert_close(apart[:5], torch.tensor([0.0, -3, -4, 5, 3]), rtol=1e-3, atol=1e-3)
    # Two points 2 m apart along (1, 1): the longer way has deviation 1, the shorter next to none.
    slanted = found(moments((0, 0, 0), (2**0.5, 2**0.5, 0)))
    longer, shorter, height, _ = sizes(slanted).exp()
    torch.testing.assert_close(longer.item(), 1.0, rtol=1e-3, atol=0)
    assert shorter < 0.02
    assert height < 0.02


def test_a_name_is_found_where_the_tokens_are_that_look_like_it() -> None:
    telling = Telling(4, 2)
    looks = torch.eye(64)[[0, 0, 0, 1, 1, 2]][None]
    places = torch.tensor([[[1.0, 0, 0], [3, 0, 0], [9, 9, 9], [0, 5, 0], [0, 7, 0], [8, 8, 8]]])
    valid = torch.tensor([[True, True, False, True, True, True]])
    with torch.no_grad():
        telling.name.weight.zero_()
        telling.name.weight[0, 0] = telling.name.weight[1, 1] = 1.0
    named = found(telling.find(Told(looks, places), torch.eye(2)[None], valid))
    torch.testing.assert_close(
        named.place, torch.tensor([[[2.0, 0, 0], [0, 6, 0]]]), atol=1e-3, rtol=0
    )
    assert named.variance[0, 0, 0].item() == pytest.approx(1.0, abs=0.01)


def test_a_lamp_weighs_as_much_in_a_scenes_look_as_its_floor() -> None:
    looks = torch.eye(64)[[0] * 30 + [1] * 3 + [2] * 7][None]
    valid = torch.ones(1, 40, dtype=torch.bool)
    valid[0, 33:] = False
    look = spoken_look(looks, valid)[0]
    assert look[2] == 0
    assert look[0].item() == pytest.approx(0.5, abs=0.15)  # each token is one more in its crowd
    assert look[1].item() == pytest.approx(0.5, abs=0.15)


def test_scenes_without_depth_are_no_error_and_answered() -> None:
    torch.manual_seed(0)
    task = VsiTask(DIM, 512, 4)
    tokens, targets = scenes(np.random.default_rng(0), count=2, places=True)
    targets["xyz"] = torch.full_like(targets["xyz"], torch.nan)
    targets["has_depth"] = torch.zeros_like(targets["has_depth"])
    loss = task.loss_sum(task(tokens, targets), targets)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
    place = task.spatial.telling.place
    assert not any(p.grad.any() for p in place.parameters())


def test_answers_of_a_bank_are_as_near_as_what_the_question_calls_by_their_name() -> None:
    torch.manual_seed(0)
    reader = SpatialReader(DIM, 512, numbers=False)
    torch.nn.init.normal_(reader.near.wanted.weight)
    torch.nn.init.zeros_(reader.said.weight)
    torch.nn.init.zeros_(reader.said.bias)
    tokens, targets = scenes(np.random.default_rng(0), count=1, places=True)
    stranger = torch.zeros(512)
    stranger[int((targets["phrases"] == 0).flatten(0, 2).all(dim=0).nonzero()[0, 0])] = 1.0
    bank = torch.stack([targets["phrases"][0, 0, 2], stranger])
    added = reader(tokens, targets, bank).added
    assert added.shape == (1, 8, 2)
    assert added[0, 0, 0] != 0
    assert not added[..., 1].any()


@pytest.mark.slow
@pytest.mark.parametrize("places", [True, False])
def test_left_is_told_from_right_by_tokens_that_know_places(places: bool) -> None:
    """Rooms of six things of twelve; who stands where and faces what is named, nothing is shown."""
    torch.manual_seed(0)
    steps = 200 if places else 60  # what is not there is not learned in any number
    draw = partial(scenes, places=places)
    right = learned(VsiTask(DIM, 512, 4), draw, steps=steps, count=8, lr=5e-3)
    assert right > 0.8 if places else right < 0.62


def scenes(rng: np.random.Generator, count: int, *, places: bool) -> tuple[torch.Tensor, Targets]:
    """Rooms of six things, a token a thing: its class, and maybe its place; eight questions each.

    Each names three things: where one stands, what one faces, and what is left or right then.
    """
    looks = np.random.default_rng(7).normal(size=(len(CLASSES), DIM // 2))
    axes = np.random.default_rng(8).normal(size=(3, DIM // 2))
    kinds = np.stack([rng.permutation(len(CLASSES))[:6] for _ in range(count)])
    xyz = rng.uniform(-3, 3, size=(count, 6, 3)) * [1, 1, 0.2]
    told = (xyz if places else np.zeros_like(xyz)) @ axes
    tokens = np.concatenate([looks[kinds], told], axis=-1)[:, None].astype(np.float32)
    texts, right = [], np.zeros((count, 8, 2), bool)
    for scene in range(count):
        for number in range(8):
            stand, face, other = rng.permutation(6)[:3]
            ahead, way = (xyz[scene, thing] - xyz[scene, stand] for thing in (face, other))
            left = ahead[0] * way[1] - ahead[1] * way[0] > 0
            right[scene, number, 0 if left else 1] = True
            a, b, c = (CLASSES[kinds[scene, thing]] for thing in (stand, face, other))
            texts.append(f"standing by the {a} and facing the {b}, is the {c} to my left or right?")
    shape, known = (count, 8), torch.ones(count, 6, dtype=torch.bool)
    seen = seen_looks(torch.from_numpy(looks[kinds].astype(np.float32))[:, None])
    offered = np.stack([vector("left"), vector("right")])
    return torch.from_numpy(tokens), {
        "text": torch.from_numpy(np.stack([vector(text) for text in texts])).reshape(*shape, -1),
        "phrases": torch.from_numpy(np.stack([spoken(t) for t in texts])).reshape(*shape, MOST, -1),
        "choices": torch.from_numpy(offered).expand(*shape, 2, -1),
        "looks": seen,
        "spoken": spoken_look(seen, known),
        "valid": known,
        "xyz": torch.from_numpy(xyz.astype(np.float32)),
        "has_depth": known,
        "right": torch.from_numpy(right),
        "open": torch.ones(*shape, 2, dtype=torch.bool),
        "number": torch.full(shape, torch.nan),
        "learnable": torch.ones(shape, dtype=torch.bool),
    }


def spoken(text: str) -> np.ndarray:
    found = np.zeros((MOST, 512), np.float32)
    for slot, phrase in enumerate(phrases(text)):
        found[slot] = vector(phrase)
    return found


@cache
def vector(text: str) -> np.ndarray:
    return embed_texts("words", [text])[0]
