"""Batches whose answers can be worked out by hand."""

import math

import torch
from torch import Tensor

from vega3d.train.acted import Acted
from vega3d.train.asked import Asked
from vega3d.train.batch import Batch
from vega3d.train.tasks.task import Task

NAN = float("nan")


def rotation_y(angle_deg: float) -> Tensor:
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1.0]])


def batch_of(
    xyz: Tensor, has_depth: Tensor | None = None, poses: Tensor | None = None, **more: object
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


def acted_of(samples: int, *, there: bool = True) -> Acted:
    """Return chunks of 8 actions of 7 numbers, the last of which lies beyond the end."""
    draw = torch.Generator().manual_seed(1)
    within = torch.full((samples, 8), there)
    within[:, -1] = False
    return Acted(
        chunk=torch.rand(samples, 8, 7, generator=draw) * 2 - 1,
        there=within,
        proprio=torch.rand(samples, 8, generator=draw) * 2 - 1,
        text=torch.randn(samples, 6, generator=draw),
    )


def asked_of(name: str, samples: int, *, there: bool = True) -> dict[str, Asked | Acted]:
    """Return three questions a sample for a task, with texts of 6 numbers and 3 choices.

    Candidate 0 of grounding holds points about (1.15, 1.15, 1.15), 1 is elsewhere and sees none.
    For `action` they are chunks of actions.
    """
    if name == "action":
        return {name: acted_of(samples, there=there)}
    draw = torch.Generator().manual_seed(1)
    shape = (samples, 3)
    right = torch.zeros(*shape, 3, dtype=torch.bool)
    right[:, 0, 0] = right[:, 1, 1] = right[:, 2, 2] = there
    boxes = torch.tensor([[1.15, 1.15, 1.15, 0.5, 0.5, 0.5], [9.0, 9.0, 9.0, 1.0, 1.0, 1.0]])
    number = torch.full(shape, torch.nan)
    if name == "vsi" and there:
        right[:, 2], number[:, 2] = False, 2000.0  # all guesses are too low
    targets = torch.full((*shape, 1, 6), torch.nan)
    targets[:, 0, 0], targets[:, 1, 0] = boxes[0], boxes[1]
    bank = torch.randn(3, 6, generator=draw) if name in ("qa", "caption") else None
    choices = torch.randn(*shape, 3, 6, generator=draw) if name == "vsi" else None
    phrases = torch.randn(*shape, 2, 6, generator=draw) if name in ("qa", "vsi") else None
    benchmark = torch.zeros(shape, dtype=torch.long)
    if name in ("grounding", "qa"):
        benchmark[:, 2] = 1  # the third, of Multi3DRefer, has no target
    return {
        name: Asked(
            index=torch.arange(3).expand(shape) if there else torch.full(shape, -1),
            benchmark=benchmark,
            needs=torch.arange(3).expand(shape),
            text=torch.randn(*shape, 6, generator=draw),
            phrases=phrases,
            choices=choices,
            bank=bank,
            right=right,
            open=torch.ones(*shape, 3, dtype=torch.bool),
            worth=right.float(),
            number=number,
            boxes=boxes.expand(samples, 2, 6),
            targets=targets,
        )
    }


def part_of(batch: Batch, rows: slice) -> Batch:
    """Return some samples of a batch."""
    fields = {key: value[rows] for key, value in vars(batch).items() if isinstance(value, Tensor)}
    asked = {name: one.part(rows) for name, one in (batch.questions or {}).items()}
    return Batch(scene_ids=batch.scene_ids[rows], questions=asked, **fields)
