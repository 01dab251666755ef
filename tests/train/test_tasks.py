import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vega3d.train.batch import Batch
from vega3d.train.config import TrainConfig
from vega3d.train.model import build_model
from vega3d.train.order import SceneViews, scoring_samples
from vega3d.train.randomness import dropout, seed_of, uniform
from vega3d.train.spatial import (
    DepthTask,
    DisplacementTask,
    LabelTask,
    MatchingTask,
    rotation_angle_deg,
)
from vega3d.train.tasks import Task

NAN = float("nan")


def rotation_y(angle_deg: float) -> Tensor:
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1.0]])


def batch_of(
    xyz: Tensor, has_depth: Tensor | None = None, poses: Tensor | None = None, **more: Tensor
) -> Batch:
    """Return a batch of one sample whose cameras' axes are the world's, unless poses are given."""
    samples, views, tokens, _ = xyz.shape
    has_depth = torch.ones(xyz.shape[:3], dtype=torch.bool) if has_depth is None else has_depth
    seen = torch.where(has_depth[..., None], xyz, NAN)
    return Batch(
        scene_ids=("a",) * samples,
        views=torch.arange(views).expand(samples, views),
        gen=torch.zeros(samples, views, tokens, 2),
        sem=torch.zeros(samples, views, tokens, 3),
        valid=torch.ones(xyz.shape[:3], dtype=torch.bool),
        xyz_world=seen,
        xyz_camera=seen,
        asked=torch.ones(samples, views, dtype=torch.bool),
        has_depth=has_depth,
        world_from_camera=torch.eye(4).expand(samples, views, 4, 4) if poses is None else poses,
        seeds=torch.arange(samples * views).reshape(samples, views),
        **more,
    )


def means(task: Task, prediction: Tensor, targets: dict[str, Tensor]) -> dict[str, float]:
    sums = task.metric_sums(prediction, targets)
    return {name: (total / count).item() for name, (total, count) in sums.items()}


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


def test_classes_ask_labelled_tokens_only() -> None:
    labels = torch.tensor([[[0, 1, 2, -1]]])
    xyz = torch.ones(1, 1, 4, 3)
    task = LabelTask(8, num_classes=3)
    targets = task.targets(batch_of(xyz, labels=labels))
    logits = torch.zeros(1, 1, 4, 3)
    logits[0, 0, 1, 1] = 1.0
    got = means(task, logits, targets)
    assert got["accuracy"] == pytest.approx(2 / 3)  # a tie goes to class 0
    want = 2 * math.log(3) - math.log(math.e / (math.e + 2))
    assert task.loss_sum(logits, targets).item() == pytest.approx(want, rel=1e-5)
    with pytest.raises(ValueError, match="needs a label store: pass --labels"):
        task.targets(batch_of(xyz))


@pytest.mark.parametrize("name", ["depth", "displacement", "matching", "classes"])
def test_losses_and_metrics_of_parts_add_up_to_the_whole(name: str) -> None:
    config = TrainConfig(
        tasks=(name,), hidden_dim=8, heads=2, num_classes=3 if name == "classes" else 0
    )
    model = build_model(2, 3, (3, 4), config)
    (task,) = model.task_list()
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(4, 2, 12, 3, generator=generator) * 0.3 + 1
    has_depth = torch.rand(4, 2, 12, generator=generator) > 0.4
    labels = torch.randint(-1, 3, (4, 2, 12), generator=generator)
    whole = batch_of(xyz, has_depth, labels=labels)

    def part(rows: slice) -> Batch:
        fields = {
            key: value[rows] for key, value in vars(whole).items() if isinstance(value, Tensor)
        }
        return Batch(scene_ids=whole.scene_ids[rows], **fields)

    def sums(batch: Batch) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
        targets = model.targets(batch)
        predictions, _ = model(batch, targets)
        answers = task.metric_sums(predictions[name], targets[name])
        return task.loss_sum(predictions[name], targets[name]), targets[name]["count"], answers

    loss, count, metrics = sums(whole)
    halves = [sums(part(slice(0, 1))), sums(part(slice(1, 4)))]
    torch.testing.assert_close(halves[0][0] + halves[1][0], loss)
    assert halves[0][1] + halves[1][1] == count
    for key, (total, number) in metrics.items():
        torch.testing.assert_close(halves[0][2][key][0] + halves[1][2][key][0], total)
        assert halves[0][2][key][1] + halves[1][2][key][1] == number


@pytest.mark.parametrize("name", ["depth", "displacement", "matching", "classes"])
def test_a_batch_without_an_answer_has_loss_zero_and_a_gradient_of_zeros(name: str) -> None:
    config = TrainConfig(
        tasks=(name,), hidden_dim=8, heads=2, num_classes=3 if name == "classes" else 0
    )
    model = build_model(2, 3, (2, 2), config)
    xyz, none = torch.ones(1, 2, 4, 3), torch.zeros(1, 2, 4, dtype=torch.bool)
    batch = batch_of(xyz, none, labels=torch.full((1, 2, 4), -1))
    targets = model.targets(batch)
    predictions, _ = model(batch, targets)
    (task,) = model.task_list()
    loss = task.loss_sum(predictions[name], targets[name])
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["depth", "displacement", "matching"])
def test_gradients_of_a_task_reach_every_parameter_of_the_model(name: str) -> None:
    model = build_model(2, 3, (3, 4), TrainConfig(tasks=(name,), hidden_dim=8, heads=2))
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(2, 2, 12, 3, generator=generator) * 0.3 + 1
    batch = batch_of(xyz)
    batch.gen.normal_(generator=generator)
    batch.sem.normal_(generator=generator)
    targets = model.targets(batch)
    predictions, _ = model(batch, targets)
    (task,) = model.task_list()
    task.loss_sum(predictions[name], targets[name]).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in dead if not n.endswith("attention.key.bias")] == []


def test_uniform_numbers_are_flat_fixed_and_independent_of_each_other() -> None:
    drawn = uniform(torch.arange(64), 4096, salt=1)
    assert ((drawn >= 0) & (drawn < 1)).all()
    counts = torch.histc(drawn, bins=16, min=0, max=1)
    # 262144 numbers, 16384 a bin, standard deviation 124: six of them.
    assert (counts - 16384).abs().max() < 6 * 124
    centred = drawn - 0.5
    correlation = (centred[:-1] * centred[1:]).mean(dim=1) * 12
    assert correlation.abs().max() < 6 / math.sqrt(4096)
    assert (
        uniform(torch.tensor([3]), 2, salt=0).tolist()
        != uniform(torch.tensor([3]), 2, salt=1).tolist()
    )


def test_uniform_is_splitmix_written_out() -> None:
    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    start = mix((7 + 5 * golden) % 2**64)
    want = [(mix((start + (i + 1) * golden) % 2**64) >> 40) / 2**24 for i in range(8)]
    assert uniform(torch.tensor([7]), 8, salt=5)[0].tolist() == want


def test_dropout_keeps_the_mean_and_drops_the_share() -> None:
    x = torch.ones(32, 16, 64)
    kept = dropout(x, 0.25, torch.arange(32), salt=3)
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    assert dropout(x, 0.0, None, salt=3) is x


def test_seed_tells_its_parts_apart() -> None:
    assert seed_of("a", 1) != seed_of("a", "1")
    assert seed_of("ab", "c") != seed_of("a", "bc")
    assert 0 <= seed_of("a", 1) < 2**63


def test_views_that_fill_up_a_sample_are_asked_once_and_still_answer() -> None:
    # Five views of the same four points in samples of four: views 1 to 3 come twice.
    points = torch.tensor([[0.0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]])
    matching, depth, displacement = MatchingTask(8, 0.1), DepthTask(8), DisplacementTask(8)
    pairs: list[tuple[int, int]] = []
    views: list[int] = []
    steps = 0
    for sample in scoring_samples([SceneViews("a", tuple(range(5)))], 4):
        whole = batch_of(points.expand(1, 4, 4, 3))
        batch = replace(
            whole, views=torch.tensor([sample.views]), asked=torch.tensor([sample.asked])
        )
        targets = matching.targets(batch)
        for q in targets["asked"][0].any(dim=-1).nonzero()[:, 0].tolist():
            a, b = int(targets["view_a"][q]), int(targets["view_b"][q])
            pairs.append((sample.views[a], sample.views[b]))
        asked = depth.targets(batch)["asked"][0].all(dim=-1).tolist()
        views += [view for view, yes in zip(sample.views, asked, strict=True) if yes]
        steps += int(displacement.targets(batch)["asked"].any(dim=-1).sum())
    assert views == [0, 1, 2, 3, 4]
    assert steps == 5
    assert len(set(pairs)) == len(pairs)
    near = {(a, b) for a in range(5) for b in range(5) if a != b} - {(0, 4), (4, 0)}
    assert set(pairs) == near  # 0 and 4 are in no sample together
