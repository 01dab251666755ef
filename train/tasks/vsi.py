"""VSI-Bench: choices and numbers.

Letters: B samples, V views, N tokens of a view, D channels, Q questions, A offered choices.
"""

from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, smooth_l1_loss

from vega3d.evaluate.benchmarks.vsi import relative_accuracy
from vega3d.train.config import TrainConfig
from vega3d.train.tasks.asking import (
    NEED_MEANINGS,
    AskingTask,
    SceneReader,
    best,
    info_nce,
)
from vega3d.train.tasks.task import Sums, Targets, masked_sum, mlp_head

_LETTERS = "ABCDEFGH"
_LARGEST = 20.0  # exp of it is more than any answer, and finite


class VsiTask(AskingTask):
    """Rank the offered choices, or give a number: accuracy and mean relative accuracy.

    Source of the metrics: Yang et al., Thinking in Space, CVPR 2025.
    """

    name = "vsi"
    primary = "score"
    benchmarks = ("vsi",)
    meanings: ClassVar[dict[str, str]] = {
        "score": "mean of accuracy and mean relative accuracy over all questions",
        "accuracy": "right choices",
        "mra": "mean relative accuracy of the numbers",
        **NEED_MEANINGS,
    }
    unanswered = "no scored scene has a question"

    def __init__(self, dim: int, text_dim: int, heads: int) -> None:
        """Build the reader and both heads."""
        super().__init__()
        self.reader = SceneReader(dim, text_dim, heads)
        self.query = nn.Linear(dim, dim)
        self.choice = nn.Linear(text_dim, dim)
        self.number = mlp_head(dim, dim, 1)

    @classmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run."""
        return cls(config.hidden_dim, config.text_dim, config.heads)

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Tensor:
        """Return the cosines of the choices and, last, the number's logarithm: [B, Q, A + 1]."""
        found = self.reader(targets["text"], tokens.flatten(1, 2), targets["valid"])
        query = normalize(self.query(found).float(), dim=-1)
        choices = normalize(self.choice(targets["choices"]).float(), dim=-1)
        scores = (choices @ query[..., None])[..., 0]
        return torch.cat([scores, self.number(found).float()], dim=-1)

    def loss_sum(self, prediction: Tensor, targets: Targets) -> Tensor:
        """Return InfoNCE over the choices, and the errors of the numbers' logarithms."""
        asked = targets["learnable"] & targets["number"].isfinite()
        truth = targets["number"][asked].log()
        errors = smooth_l1_loss(prediction[..., -1][asked], truth, reduction="sum", beta=0.1)
        return info_nce(prediction[..., :-1], targets) + errors

    def metric_sums(self, prediction: Tensor, targets: Targets) -> Sums:
        """Return accuracy and mean relative accuracy."""
        chosen = best(prediction[..., :-1], targets)[..., None]
        worth = targets["worth"].gather(-1, chosen)[..., 0].double()
        is_number = targets["number"].isfinite()
        for b, q in (targets["there"] & is_number).nonzero().tolist():
            worth[b, q] = relative_accuracy(
                float(_told(prediction[b, q])), float(targets["number"][b, q])
            )
        sums = self.sums(worth, targets)
        sums["accuracy"] = masked_sum(worth, targets["there"] & ~is_number)
        sums["mra"] = masked_sum(worth, targets["there"] & is_number)
        return sums

    def answers(
        self, prediction: Tensor, targets: Targets, bank: tuple[str, ...]
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return letters and numbers."""
        chosen = best(prediction[..., :-1], targets)
        records = []
        for b, q in targets["there"].nonzero().tolist():
            number = bool(targets["number"][b, q].isfinite())
            said = _told(prediction[b, q]) if number else _LETTERS[int(chosen[b, q])]
            records.append((int(targets["index"][b, q]), {"prediction": said}))
        return records


def _told(prediction: Tensor) -> str:
    """Return the number as it is written down."""
    return f"{float(prediction[-1].detach().clamp(-_LARGEST, _LARGEST).exp()):.4f}"
