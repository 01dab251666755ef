"""Answers in a few words, ranked: ScanQA and SQA3D.

Letters: B samples, V views, N tokens of a view, D channels, Q questions, A answers of the bank.
"""

from typing import Any, ClassVar, NamedTuple, Self

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from vega3d.train.config import TrainConfig
from vega3d.train.tasks.asking import NEED_MEANINGS, SceneReader, best, info_nce
from vega3d.train.tasks.spatial import SpatialReader, SpatialTask
from vega3d.train.tasks.task import Sums, Targets, masked_sum


class Ranked(NamedTuple):
    """What the head says of the answers."""

    scores: Float[Tensor, "B Q A"]
    """Cosines of questions and answers, and what places add to them."""

    errors: Float[Tensor, " B"]
    """Of what the tokens tell of places and looks, a loss for every question."""


class QaTask(SpatialTask):
    """Rank the answers of the training questions; exact match of the first.

    ScanQA's as written, SQA3D's after cleaning, as the released scripts compare. Source: Azuma et
    al., ScanQA, CVPR 2022, sec. 4.3 (answers as classes); Ma et al., SQA3D, ICLR 2023.
    """

    name = "qa"
    primary = "score"
    benchmarks = ("scanqa", "sqa3d")
    bank_of = True
    meanings: ClassVar[dict[str, str]] = {
        "score": "exact match over all questions",
        "scanqa_em": "ScanQA's exact match",
        "sqa3d_em": "SQA3D's exact match",
        **NEED_MEANINGS,
    }
    unanswered = "no scored scene has a question"

    def __init__(self, dim: int, text_dim: int, heads: int) -> None:
        """Build both readers and both sides of the ranking."""
        super().__init__()
        self.reader = SceneReader(dim, text_dim, heads)
        self.query = nn.Linear(dim, dim)
        self.answer = nn.Linear(text_dim, dim)
        self.spatial = SpatialReader(dim, text_dim, numbers=False)

    @classmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run."""
        return cls(config.hidden_dim, config.text_dim, config.heads)

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Ranked:
        """Return the scores of the answers."""
        found = self.reader(targets["text"], tokens.flatten(1, 2), targets["valid"])
        query = normalize(self.query(found).float(), dim=-1)
        answers = normalize(self.answer(targets["bank"]).float(), dim=-1)
        added, _, errors = self.spatial(tokens, targets, targets["bank"])
        return Ranked(query @ answers.T + added, errors)

    def loss_sum(self, prediction: Ranked, targets: Targets) -> Tensor:
        """Return InfoNCE over the bank, and the errors of what the tokens tell."""
        told = (prediction.errors * targets["learnable"].sum(dim=1)).sum()
        return info_nce(prediction.scores, targets) + told

    def metric_sums(self, prediction: Ranked, targets: Targets) -> Sums:
        """Return the exact match."""
        chosen = best(prediction.scores, targets)[..., None]
        worth = targets["worth"].gather(-1, chosen)[..., 0]
        sums = self.sums(worth, targets)
        for number, name in enumerate(self.benchmarks):
            mine = targets["there"] & (targets["benchmark"] == number)
            sums[f"{name}_em"] = masked_sum(worth, mine)
        return sums

    def answers(
        self, prediction: Ranked, targets: Targets, bank: tuple[str, ...]
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return the first of the ranking."""
        chosen = best(prediction.scores, targets)
        return [
            (int(targets["index"][b, q]), {"answer": bank[int(chosen[b, q])]})
            for b, q in targets["there"].nonzero().tolist()
        ]
