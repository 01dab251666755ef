"""What holds for every task: the suite that a new one must pass."""

from dataclasses import replace

import pytest
import torch
from batches import asked_of, batch_of, part_of
from torch import Tensor

from vega3d.train.batch import Batch
from vega3d.train.config import TASKS, TrainConfig
from vega3d.train.model import SpatialModel, build_model
from vega3d.train.order import SceneViews, scoring_samples
from vega3d.train.tasks.depth import DepthTask
from vega3d.train.tasks.displacement import DisplacementTask
from vega3d.train.tasks.matching import MatchingTask
from vega3d.train.tasks.registry import task_class


def config_of(name: str) -> TrainConfig:
    classes = 3 if name == "classes" else 0
    return TrainConfig(
        tasks=(name,), hidden_dim=8, heads=2, num_classes=classes, text_dim=6, views_per_sample=2
    )


def model_of(name: str, grid: tuple[int, int]) -> SpatialModel:
    return build_model(2, 3, grid, config_of(name))


@pytest.mark.parametrize("name", TASKS)
def test_what_a_task_says_of_itself_is_what_it_gives(name: str) -> None:
    task = task_class(name).from_config(config_of(name), (2, 2))
    asked = asked_of(name, 1)
    labels = torch.zeros(1, 2, 4, dtype=torch.long)
    batch = batch_of(torch.ones(1, 2, 4, 3), labels=labels, questions=asked)
    targets = task.targets(batch)
    sums = task.metric_sums(task(torch.zeros(1, 2, 4, 8), targets), targets)
    assert task.name == name
    assert task.primary in sums
    assert set(sums) >= set(task.meanings)
    assert all(task.meaning(metric) for metric in sums)
    assert task.unanswered


@pytest.mark.parametrize("name", TASKS)
def test_losses_and_metrics_of_parts_add_up_to_the_whole(name: str) -> None:
    model = model_of(name, (3, 4))
    (task,) = model.task_list()
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(4, 2, 12, 3, generator=generator) * 0.3 + 1
    has_depth = torch.rand(4, 2, 12, generator=generator) > 0.4
    labels = torch.randint(-1, 3, (4, 2, 12), generator=generator)
    whole = batch_of(xyz, has_depth, labels=labels, questions=asked_of(name, 4))

    def sums(batch: Batch) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
        targets = model.targets(batch)
        predictions, _ = model(batch, targets)
        answers = task.metric_sums(predictions[name], targets[name])
        return task.loss_sum(predictions[name], targets[name]), targets[name]["count"], answers

    loss, count, metrics = sums(whole)
    halves = [sums(part_of(whole, slice(0, 1))), sums(part_of(whole, slice(1, 4)))]
    torch.testing.assert_close(halves[0][0] + halves[1][0], loss)
    assert halves[0][1] + halves[1][1] == count
    for key, (total, number) in metrics.items():
        added = halves[0][2][key][0] + halves[1][2][key][0]
        # What is added has the last bits of float32, which a batch of another size may change.
        torch.testing.assert_close(added.float(), total.float())
        assert halves[0][2][key][1] + halves[1][2][key][1] == number


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_without_an_answer_has_loss_zero_and_a_gradient_of_zeros(name: str) -> None:
    model = model_of(name, (2, 2))
    xyz, none = torch.ones(1, 2, 4, 3), torch.zeros(1, 2, 4, dtype=torch.bool)
    asked = asked_of(name, 1, there=False)
    batch = batch_of(xyz, none, labels=torch.full((1, 2, 4), -1), questions=asked)
    targets = model.targets(batch)
    predictions, _ = model(batch, targets)
    (task,) = model.task_list()
    loss = task.loss_sum(predictions[name], targets[name])
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", TASKS)
def test_gradients_of_a_task_reach_every_parameter_of_the_model(name: str) -> None:
    model = model_of(name, (3, 4))
    for parameter in model.parameters():
        if not parameter.any():  # what begins at 0 lets nothing through before the first step
            torch.nn.init.constant_(parameter, 0.1)
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(2, 2, 12, 3, generator=generator) * 0.3 + 1
    labels = torch.randint(3, (2, 2, 12), generator=generator)
    batch = batch_of(xyz, labels=labels, questions=asked_of(name, 2))
    batch.gen.normal_(generator=generator)
    batch.sem.normal_(generator=generator)
    targets = model.targets(batch)
    predictions, _ = model(batch, targets)
    (task,) = model.task_list()
    task.loss_sum(predictions[name], targets[name]).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in dead if not n.endswith("attention.key.bias")] == []


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
