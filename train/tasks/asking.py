"""What the tasks over annotated questions share: reading a scene, pooling boxes, sums by need.

Letters: B samples, V views, N tokens of a view, M = V N tokens of a sample, D channels,
Q questions, A choices, O boxes, E numbers of a text's vector.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vega3d.train.asked import NEEDS, Asked
from vega3d.train.attention import Attention
from vega3d.train.batch import Batch
from vega3d.train.tasks.task import Prediction, Sums, Targets, Task, masked_sum

TEMPERATURE = 0.07
"""Of the cosines. Source: H-EmbodVis/VEGA-3D @ 9c96924, ground_head."""

_MARGIN_M = 0.05
_NEVER = -1e4


class AskingTask(Task):
    """A task over questions of scenes, asked once a scene and not once a view."""

    asks_scenes = True
    needs_depth = False
    benchmarks: ClassVar[tuple[str, ...]]
    """Whose items it takes."""

    bank_of: ClassVar[bool] = False
    """True where the answers of the training items are what is chosen from."""

    reads_phrases: ClassVar[bool] = False
    """True where it reads what a text speaks of phrase by phrase."""

    def targets(self, batch: Batch) -> Targets:
        """Return the questions and where the tokens are."""
        asked = (batch.questions or {}).get(self.name)
        if not isinstance(asked, Asked):
            raise ValueError(f"the task {self.name} needs questions: pass --questions FILE")
        there = asked.index >= 0
        found = {
            "there": there,
            "benchmark": asked.benchmark,
            "needs": asked.needs,
            "index": asked.index,
            "text": asked.text,
            "right": asked.right,
            "open": asked.open,
            "worth": asked.worth,
            "number": asked.number,
            "boxes": asked.boxes,
            "targets": asked.targets,
            "valid": batch.valid.flatten(1),
            "xyz": batch.xyz_world.flatten(1, 2),
            "has_depth": batch.has_depth.flatten(1),
        }
        found |= {} if asked.bank is None else {"bank": asked.bank}
        found |= {} if asked.phrases is None else {"phrases": asked.phrases}
        found |= {} if asked.choices is None else {"choices": asked.choices}
        learnable = there & (asked.right.any(dim=-1) | asked.number.isfinite())
        return {**found, "learnable": learnable, "count": learnable.sum()}

    @abstractmethod
    def answers(
        self, prediction: Prediction, targets: Targets, bank: tuple[str, ...]
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return each question's item and the fields of its prediction record.

        Args:
            prediction: As `forward` gives it.
            targets: As `targets` gives them.
            bank: The texts of the answers to choose from.
        """

    def sums(self, worth: Float[Tensor, "B Q"], targets: Targets) -> Sums:
        """Return the mean worth of all questions, and of those of each need."""
        there = targets["there"]
        found = {"score": masked_sum(worth, there)}
        for number, name in enumerate(NEEDS):
            found[name] = masked_sum(worth, there & (targets["needs"] == number))
        return found


NEED_MEANINGS = {
    "geometry": "worth of the questions that geometry answers",
    "appearance": "worth of those that looks answer",
    "both": "worth of those that need both",
}


class SceneReader(nn.Module):
    """Questions read a scene's tokens, twice; what they found goes on."""

    def __init__(self, dim: int, text_dim: int, heads: int) -> None:
        """Build it."""
        super().__init__()
        self.text = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.layers = nn.ModuleList(_Reading(dim, heads) for _ in range(2))

    def forward(
        self,
        text: Float[Tensor, "B Q E"],
        tokens: Float[Tensor, "B M D"],
        valid: Bool[Tensor, "B M"],
    ) -> Float[Tensor, "B Q D"]:
        """Return what every question found."""
        asked = self.text(text)
        for layer in self.layers:
            asked = layer(asked, tokens, valid)
        return asked  # type: ignore[no-any-return]


class _Reading(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_in, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, asked: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
        asked = asked + self.attention(self.norm_in(asked), tokens, tokens, valid)
        return asked + self.mlp(self.norm_mlp(asked))  # type: ignore[no-any-return]


def pool_boxes(
    tokens: Float[Tensor, "B M D"],
    xyz: Float[Tensor, "B M 3"],
    has_depth: Bool[Tensor, "B M"],
    boxes: Float[Tensor, "B O 6"],
) -> tuple[Float[Tensor, "B O D"], Bool[Tensor, "B O"]]:
    """Return the mean of the tokens whose point lies in each box, and where there is any.

    The tokens are fused ones: the prior reaches the candidates, which it does not in the released
    code (its candidates are pooled from semantic tokens before fusion).
    """
    away = (
        torch.where(has_depth[..., None], xyz, torch.inf)[:, :, None] - boxes[:, None, :, :3]
    ).abs()
    inside = (away <= boxes[:, None, :, 3:] / 2 + _MARGIN_M).all(dim=-1)  # NaN boxes hold nothing
    share = inside.to(tokens.dtype) / inside.sum(dim=1, keepdim=True).clamp(min=1)
    return share.transpose(1, 2) @ tokens, inside.any(dim=1)


def info_nce(scores: Float[Tensor, "B Q A"], targets: Targets) -> Tensor:
    """Return the loss of cosines with several right choices, summed over what can be learned from.

    Source: van den Oord et al., arXiv 1807.03748, Eq. 4, with several positives.
    """
    asked = targets["learnable"] & targets["right"].any(dim=-1)
    logits = scores[asked].float() / TEMPERATURE
    every = logits.masked_fill(~targets["open"][asked], _NEVER)
    right = logits.masked_fill(~targets["right"][asked], _NEVER)
    return (every.logsumexp(dim=-1) - right.logsumexp(dim=-1)).sum()


def best(scores: Float[Tensor, "B Q A"], targets: Targets) -> Tensor:
    """Return the index of the best open choice."""
    return scores.masked_fill(~targets["open"], -torch.inf).argmax(dim=-1)
