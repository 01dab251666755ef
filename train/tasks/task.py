"""What every task offers, and the head they share.

A task is a head, a loss and metrics over fused tokens. What most learn from comes from depth and
poses (or, for `classes`, a label store), so any capture is training data; the tasks of `asking.py`
ask what annotation files ask. Losses and metrics are sums with counts, never means: parts of a
batch and processes add up to the same number.

Letters: B samples, V views, N tokens of a view, D channels of a token.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vega3d.train.batch import Batch
from vega3d.train.config import TrainConfig

Targets = dict[str, Tensor]
"""What a head is asked and the right answers; "count" holds how many there are, as a number."""

Prediction = Any
"""What a head says: a tensor, or a named tuple of several, as its task declares."""

Sums = dict[str, tuple[Tensor, Tensor]]
"""Metric name -> (sum, count), numbers."""


class Task(nn.Module, ABC):
    """A head over the fused tokens, its loss and its metrics."""

    name: ClassVar[str]
    primary: ClassVar[str]
    """The metric that stands for the task in a table: in [0, 1], 1 best."""
    meanings: ClassVar[dict[str, str]]
    """Every metric in words."""
    unanswered: ClassVar[str]
    """What is wrong with scored views that have no answer."""
    adjacent_views: ClassVar[bool] = False
    """True where a sample must hold neighbouring views."""
    needs_depth: ClassVar[bool] = True
    """True where the answers come from depth and poses."""
    asks_scenes: ClassVar[bool] = False
    """True where annotated questions are asked, once a scene."""
    reads_looks: ClassVar[bool] = False
    """True where its targets are made from semantic tokens too: of mean 0 and deviation 1."""
    asks_frames: ClassVar[bool] = False
    """True where a sample is one frame of a demonstration, as several cameras see it."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run; its first weights come from torch's generator.

        Args:
            config: Of the run.
            grid: Rows and columns of a view's tokens.
        """

    @classmethod
    def meaning(cls, metric: str) -> str:
        """Return a metric in words."""
        return cls.meanings[metric]

    @abstractmethod
    def targets(self, batch: Batch) -> Targets:
        """Return what to ask and the answers; pure.

        From geometry and annotations, and from semantic tokens where it `reads_looks`.
        """

    @abstractmethod
    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Prediction:
        """Return the head's prediction in float32."""

    @abstractmethod
    def loss_sum(self, prediction: Prediction, targets: Targets) -> Tensor:
        """Return the loss summed over the `targets["count"]` answers."""

    @abstractmethod
    def metric_sums(self, prediction: Prediction, targets: Targets) -> Sums:
        """Return every metric's sum and count."""


def mlp_head(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Return a head of two layers."""
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim))


def masked_sum(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the values under the mask in float64, and how many there are.

    Values outside of the mask may be anything, NaN too, as long as no gradient is asked of them.
    """
    kept = torch.where(mask, values.double(), 0.0)
    return kept.sum(), mask.sum()
