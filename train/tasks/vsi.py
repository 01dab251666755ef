"""VSI-Bench: choices and numbers.

Letters: B samples, V views, N tokens of a view, D channels, Q questions, A offered choices.
"""

from typing import Any, ClassVar, NamedTuple, Self

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, smooth_l1_loss

from vega3d.evaluate.benchmarks.vsi import relative_accuracy
from vega3d.train.config import TrainConfig
from vega3d.train.tasks.asking import NEED_MEANINGS, SceneReader, best, info_nce
from vega3d.train.tasks.spatial import SpatialReader, SpatialTask
from vega3d.train.tasks.task import Sums, Targets, masked_sum, mlp_head

_LETTERS = "ABCDEFGH"
_LARGEST = 20.0  # exp of it is more than any answer, and finite


class Judged(NamedTuple):
    """What the head says of the questions."""

    scores: Float[Tensor, "B Q A"]
    """Of the choices: a cosine, and what places add to it."""

    number: Float[Tensor, "B Q"]
    """Its logarithm."""

    errors: Float[Tensor, " B"]
    """Of what the tokens tell of places and looks, a loss for every question."""


class VsiTask(SpatialTask):
    """Rank the offered choices, or give a number: accuracy and mean relative accuracy.

    What looks answer is read from the tokens by attention, what places answer by `SpatialReader`.

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
        """Build both readers and both heads."""
        super().__init__()
        self.reader = SceneReader(dim, text_dim, heads)
        self.query = nn.Linear(dim, dim)
        self.choice = nn.Linear(text_dim, dim)
        self.number = mlp_head(dim, dim, 1)
        self.spatial = SpatialReader(dim, text_dim, numbers=True)

    @classmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run."""
        return cls(config.hidden_dim, config.text_dim, config.heads)

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Judged:
        """Return the scores of the choices and the number's logarithm."""
        found = self.reader(targets["text"], tokens.flatten(1, 2), targets["valid"])
        query = normalize(self.query(found).float(), dim=-1)
        choices = normalize(self.choice(targets["choices"]).float(), dim=-1)
        scores, number = (choices @ query[..., None])[..., 0], self.number(found).float()[..., 0]
        added, more, errors = self.spatial(tokens, targets, targets["choices"])
        return Judged(scores + added, number + more, errors)

    def loss_sum(self, prediction: Judged, targets: Targets) -> Tensor:
        """Return InfoNCE, the errors of the numbers' logarithms, and of what the tokens tell."""
        learnable = targets["learnable"]
        asked = learnable & targets["number"].isfinite()
        truth = targets["number"][asked].log()
        wrong = smooth_l1_loss(prediction.number[asked], truth, reduction="sum", beta=0.1)
        told = (prediction.errors * learnable.sum(dim=1)).sum()
        return info_nce(prediction.scores, targets) + wrong + told

    def metric_sums(self, prediction: Judged, targets: Targets) -> Sums:
        """Return accuracy and mean relative accuracy."""
        chosen = best(prediction.scores, targets)[..., None]
        worth = targets["worth"].gather(-1, chosen)[..., 0].double()
        is_number = targets["number"].isfinite()
        for b, q in (targets["there"] & is_number).nonzero().tolist():
            worth[b, q] = relative_accuracy(
                float(_told(prediction.number[b, q])), float(targets["number"][b, q])
            )
        sums = self.sums(worth, targets)
        sums["accuracy"] = masked_sum(worth, targets["there"] & ~is_number)
        sums["mra"] = masked_sum(worth, targets["there"] & is_number)
        return sums

    def answers(
        self, prediction: Judged, targets: Targets, bank: tuple[str, ...]
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return letters and numbers."""
        chosen = best(prediction.scores, targets)
        records = []
        for b, q in targets["there"].nonzero().tolist():
            number = bool(targets["number"][b, q].isfinite())
            said = _told(prediction.number[b, q]) if number else _LETTERS[int(chosen[b, q])]
            records.append((int(targets["index"][b, q]), {"prediction": said}))
        return records


def _told(number: Tensor) -> str:
    """Return the number as it is written down."""
    return f"{float(number.detach().clamp(-_LARGEST, _LARGEST).exp()):.4f}"
