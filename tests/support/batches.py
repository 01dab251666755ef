"""Batches whose answers can be worked out by hand."""

import math

import torch
from torch import Tensor

from vega3d.train.batch import Batch
from vega3d.train.tasks.task import Task

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
