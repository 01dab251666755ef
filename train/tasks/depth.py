"""Metric depth of every token.

Letters: B samples, V views, N tokens of a view, D channels of a token.
"""

from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from vega3d.train.batch import Batch
from vega3d.train.config import TrainConfig
from vega3d.train.tasks.task import Sums, Targets, Task, masked_sum, mlp_head

_MIN_DEPTH_M = 0.05


class DepthTask(Task):
    """Metric depth of every token: AbsRel (0 best) and the share within a factor of 1.25.

    Source of the metrics: Eigen, Puhrsch and Fergus, NeurIPS 2014, sec. 4.2.
    """

    name = "depth"
    primary = "delta125"
    meanings: ClassVar[dict[str, str]] = {
        "absrel": "mean relative error of depth (0 best)",
        "delta125": "depths within a factor of 1.25",
    }
    unanswered = "no scored view has depth"

    def __init__(self, dim: int) -> None:
        """Build a head that gives log metres."""
        super().__init__()
        self.head = mlp_head(dim, dim, 1)

    @classmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run."""
        return cls(config.hidden_dim)

    def targets(self, batch: Batch) -> Targets:
        """Ask the depth of every token that has one."""
        depth_m = batch.xyz_camera[..., 2]
        asked = batch.has_depth & batch.asked[..., None] & (depth_m > _MIN_DEPTH_M)
        return {"depth_m": depth_m, "asked": asked, "count": asked.sum()}

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Tensor:
        """Return log depth, metres."""
        del targets
        return self.head(tokens)[..., 0].float()  # type: ignore[no-any-return]

    def loss_sum(self, prediction: Tensor, targets: Targets) -> Tensor:
        """Return the absolute errors of log depth, summed."""
        asked = targets["asked"]
        error = (prediction[asked] - targets["depth_m"][asked].log()).abs()
        return error.sum()

    def metric_sums(self, prediction: Tensor, targets: Targets) -> Sums:
        """Return AbsRel and delta < 1.25."""
        true_m, asked = targets["depth_m"], targets["asked"]
        ratio = prediction.exp() / true_m
        within = torch.maximum(ratio, 1 / ratio) < 1.25
        return {
            "absrel": masked_sum((ratio - 1).abs(), asked),
            "delta125": masked_sum(within, asked),
        }
