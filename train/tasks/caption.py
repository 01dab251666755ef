"""Captions of boxes, retrieved from a bank: Scan2Cap.

Letters: B samples, V views, N tokens of a view, D channels, Q boxes, A captions of the bank.
"""

from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from vega3d.train.config import TrainConfig
from vega3d.train.tasks.asking import NEED_MEANINGS, AskingTask, best, info_nce, pool_boxes
from vega3d.train.tasks.task import Sums, Targets, mlp_head


class CaptionTask(AskingTask):
    """Find the training caption that fits a box best; nothing is written that was not there.

    While training the score is the share of boxes whose caption is one of their own, word for word;
    CIDEr and its like, which belong to a whole split, are in the run's summary.
    """

    name = "caption"
    primary = "score"
    benchmarks = ("scan2cap",)
    bank_of = True
    needs_depth = True
    meanings: ClassVar[dict[str, str]] = {
        "score": "boxes whose caption is one of their own",
        **NEED_MEANINGS,
    }
    unanswered = "no scored scene has a box to describe"

    def __init__(self, dim: int, text_dim: int) -> None:
        """Build both sides of the ranking."""
        super().__init__()
        self.object = mlp_head(dim, dim, dim)
        self.caption = nn.Linear(text_dim, dim)
        self.unseen = nn.Parameter(torch.randn(dim) * 0.02)

    @classmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run."""
        return cls(config.hidden_dim, config.text_dim)

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Tensor:
        """Return cosines [B, Q, A] of boxes and captions."""
        boxes = targets["targets"][:, :, 0]
        pooled, seen = pool_boxes(tokens.flatten(1, 2), targets["xyz"], targets["has_depth"], boxes)
        objects = torch.where(seen[..., None], pooled, self.unseen)
        query = normalize(self.object(objects).float(), dim=-1)
        return query @ normalize(self.caption(targets["bank"]).float(), dim=-1).T

    def loss_sum(self, prediction: Tensor, targets: Targets) -> Tensor:
        """Return InfoNCE over the bank."""
        return info_nce(prediction, targets)

    def metric_sums(self, prediction: Tensor, targets: Targets) -> Sums:
        """Return the share of boxes with a caption of their own."""
        chosen = best(prediction, targets)[..., None]
        return self.sums(targets["worth"].gather(-1, chosen)[..., 0], targets)

    def answers(
        self, prediction: Tensor, targets: Targets, bank: tuple[str, ...]
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return the captions that are found."""
        chosen = best(prediction, targets)
        return [
            (int(targets["index"][b, q]), {"caption": bank[int(chosen[b, q])]})
            for b, q in targets["there"].nonzero().tolist()
        ]
