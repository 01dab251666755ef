"""The step from one token of a view to another.

Letters: B samples, V views, N tokens of a view, D channels of a token, P token pairs of a view.
"""

from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from vega3d.train.batch import Batch
from vega3d.train.config import TrainConfig
from vega3d.train.randomness import uniform
from vega3d.train.tasks.task import Sums, Targets, Task, masked_sum, mlp_head

_MIN_STEP_M = 0.1  # below it left and right, above and below, are a matter of noise
_PAIRS_A_VIEW = 64
_PAIR_SALT = 1 << 20
_RELATIVE_LIMITS = 1 - np.linspace(0.5, 0.95, 10)  # in the floats of VSI-Bench's own code


class DisplacementTask(Task):
    """The step from one token of a view to another, along the camera's axes.

    Mean relative accuracy of its length, and whether left or right, above or below, nearer or
    farther came out right (steps of 10 cm or more along that axis).

    Source of the accuracy: VSI-Bench, Yang et al., arXiv 2412.14171, sec. 3.3: the mean over
    limits t = 0.5, 0.55 .. 0.95 of whether |estimate - truth| / truth < 1 - t; its own code
    (vision-x-nyu/thinking-in-space) counts a tie as right, in float64, and so do we.
    """

    name = "displacement"
    primary = "mra"
    meanings: ClassVar[dict[str, str]] = {
        "mra": "mean relative accuracy of the distance, as in VSI-Bench",
        "left_right": "left or right came out right",
        "above_below": "above or below came out right",
        "nearer_farther": "nearer or farther came out right",
    }
    unanswered = "no scored view has two tokens with depth"
    _AXES = ("left_right", "above_below", "nearer_farther")

    def __init__(self, dim: int) -> None:
        """Build a head over two tokens that gives metres along x, y, z."""
        super().__init__()
        self.head = mlp_head(2 * dim, dim, 3)

    @classmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run."""
        return cls(config.hidden_dim)

    def targets(self, batch: Batch) -> Targets:
        """Ask pairs of tokens drawn from the views' seeds."""
        drawn = uniform(batch.seeds, 2 * _PAIRS_A_VIEW, _PAIR_SALT)
        pairs = (drawn * batch.valid.shape[-1]).long().unflatten(-1, (2, _PAIRS_A_VIEW))  # type: ignore[no-untyped-call]
        start, end = pairs.unbind(dim=-2)
        asked = batch.has_depth.gather(-1, start) & batch.has_depth.gather(-1, end)
        asked &= batch.asked[..., None] & (start != end)
        step_m = _pick(batch.xyz_camera, end) - _pick(batch.xyz_camera, start)
        return {"start": start, "end": end, "step_m": step_m, "asked": asked, "count": asked.sum()}

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Tensor:
        """Return the step of every pair, metres."""
        both = torch.cat([_pick(tokens, targets["start"]), _pick(tokens, targets["end"])], dim=-1)
        return self.head(both).float()  # type: ignore[no-any-return]

    def loss_sum(self, prediction: Tensor, targets: Targets) -> Tensor:
        """Return the absolute errors in metres, rounded off below 10 cm, summed over the axes."""
        asked = targets["asked"]
        return smooth_l1_loss(
            prediction[asked], targets["step_m"][asked], reduction="sum", beta=_MIN_STEP_M
        )

    def metric_sums(self, prediction: Tensor, targets: Targets) -> Sums:
        """Return the length's mean relative accuracy, and the accuracy of the three directions."""
        step_m, asked = targets["step_m"], targets["asked"]
        length_m = step_m.double().norm(dim=-1)
        relative = (prediction.double().norm(dim=-1) - length_m).abs() / length_m
        limits = torch.from_numpy(_RELATIVE_LIMITS).to(relative.device)
        accuracy = (relative[..., None] <= limits).double().mean(dim=-1)
        sums: Sums = {"mra": masked_sum(accuracy, asked & (length_m >= _MIN_STEP_M))}
        for axis, name in enumerate(self._AXES):
            right = prediction[..., axis].sign() == step_m[..., axis].sign()
            sums[name] = masked_sum(right, asked & (step_m[..., axis].abs() >= _MIN_STEP_M))
        return sums


def _pick(
    values: Float[Tensor, "B V N C"], index: Int[Tensor, "B V P"]
) -> Float[Tensor, "B V P C"]:
    return values.gather(-2, index[..., None].expand(*index.shape, values.shape[-1]))
