"""What a robot did next: chunks of actions from one frame, by behaviour cloning.

Letters: B samples (a frame each), V cameras, N tokens of a view, D channels, E numbers of a text's
vector, K actions of a chunk, A numbers of an action, S looks at a view, C numbers of what is seen.

Source: Kim, Finn and Liang, Fine-Tuning Vision-Language-Action Models, RSS 2025 (OpenVLA-OFT):
parallel decoding of the chunk, an MLP ResNet head, L1 loss. Levine et al., End-to-End Training of
Deep Visuomotor Policies, JMLR 2016: what acts is told places, as means of softmaxes over the image.
"""

from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vega3d.train.acted import Acted
from vega3d.train.batch import Batch
from vega3d.train.config import TrainConfig
from vega3d.train.tasks.task import Sums, Targets, Task, masked_sum

_CLOSE = 0.1
_EACH = "l1_"
_LOOKS = 16  # at each view
_SEEN = 16
_WIDTH = 256
_NEVER = -1e4


class ActionTask(Task):
    """Say the next actions: the L1 error of normalised numbers, and the share that is close."""

    name = "action"
    primary = "close"
    meanings: ClassVar[dict[str, str]] = {
        "l1": "mean absolute error of the normalised actions, whose range is 2 (0 best)",
        "close": "numbers within 0.1 of what was done",
    }
    unanswered = "no scored frame has an action after it"
    needs_depth = False
    asks_frames = True

    def __init__(self, config: TrainConfig, grid: tuple[int, int]) -> None:
        """Build what looks at the views, and the head."""
        super().__init__()
        cameras, self.chunk = config.views_per_sample, config.action_chunk
        self.looking = _Looking(config.hidden_dim, config.text_dim, cameras, grid)
        told = cameras * _LOOKS * (2 + _SEEN) + config.proprio_dim + config.text_dim
        self.head = _Head(told, config.action_chunk * config.action_dim)

    @classmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run."""
        return cls(config, grid)

    @classmethod
    def meaning(cls, metric: str) -> str:
        """Return a metric in words."""
        if metric.startswith(_EACH):
            return f"absolute error of number {metric.removeprefix(_EACH)} of an action (0 best)"
        return super().meaning(metric)

    def targets(self, batch: Batch) -> Targets:
        """Return the demonstrated chunks."""
        acted = (batch.questions or {}).get(self.name)
        if not isinstance(acted, Acted):
            raise ValueError("the task action needs demonstrations: pass --actions LOCATION")
        there = acted.there & batch.asked.any(dim=-1, keepdim=True)
        return {
            "chunk": acted.chunk,
            "there": there,
            "proprio": acted.proprio,
            "text": acted.text,
            "valid": batch.valid,
            "count": there.sum() * acted.chunk.shape[-1],
        }

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Tensor:
        """Return the normalised actions [B, K, A]."""
        seen = self.looking(targets["text"], tokens, targets["valid"])
        told = torch.cat([seen, targets["proprio"], targets["text"]], dim=-1)
        return self.head(told).unflatten(-1, (self.chunk, -1)).float()  # type: ignore[no-any-return]

    def loss_sum(self, prediction: Tensor, targets: Targets) -> Tensor:
        """Return the absolute errors, summed."""
        there = targets["there"]
        return (prediction[there] - targets["chunk"][there]).abs().sum()

    def metric_sums(self, prediction: Tensor, targets: Targets) -> Sums:
        """Return the mean absolute error, of each number too, and the share that is close."""
        error = (prediction - targets["chunk"]).abs()
        there = targets["there"][..., None].expand_as(error)
        found = {"l1": masked_sum(error, there), "close": masked_sum(error < _CLOSE, there)}
        for number in range(error.shape[-1]):
            found[f"{_EACH}{number}"] = masked_sum(error[..., number], there[..., number])
        return found


class _Looking(nn.Module):
    """Where an instruction looks in each view, and what it sees there: means under softmaxes.

    A mean place over a few tokens is finer than a token is wide; it is taken of the grid's rows and
    columns themselves, because what normed tokens carry of them is too blurred to grip by. What is
    looked for is linear in the text's vector: a word means the same in every instruction.
    """

    places: Tensor

    def __init__(self, dim: int, text_dim: int, cameras: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.query = nn.Linear(text_dim, cameras * _LOOKS * dim)
        nn.init.normal_(self.query.weight)  # of a text of length 1, each look is another direction
        nn.init.normal_(self.query.bias)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, _SEEN)
        self.register_buffer("places", _places(grid), persistent=False)

    def forward(
        self,
        text: Float[Tensor, "B E"],
        tokens: Float[Tensor, "B V N D"],
        valid: Bool[Tensor, "B V N"],
    ) -> Float[Tensor, "B VSC"]:
        asked = self.query(text).unflatten(-1, (tokens.shape[1], _LOOKS, -1))
        likely = (self.scale * asked) @ self.key(tokens).transpose(-1, -2)
        share = likely.masked_fill(~valid[:, :, None], _NEVER).softmax(dim=-1)
        return torch.cat([share @ self.places, share @ self.value(tokens)], dim=-1).flatten(1)


def _places(grid: tuple[int, int]) -> Float[Tensor, "N 2"]:
    """Return row and column of the middle of each token, both in -1..1."""
    row, col = ((2 * torch.arange(count) + 1) / count - 1 for count in grid)
    return torch.cartesian_prod(row, col)


class _Head(nn.Module):
    """OpenVLA-OFT's head: two residual layers."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(in_dim, _WIDTH)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _WIDTH), nn.GELU())
            for _ in range(2)
        )
        self.last = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, out_dim))

    def forward(self, told: Tensor) -> Tensor:
        found = self.first(told)
        for layer in self.layers:
            found = found + layer(found)
        return self.last(found)  # type: ignore[no-any-return]
