"""What a robot did next: chunks of actions from one frame, by behaviour cloning.

Letters: B samples (a frame each), V cameras, N tokens of a view, D channels, E numbers of a text's
vector, K actions of a chunk, A numbers of an action, P of a state.

Source: Kim, Finn and Liang, Fine-Tuning Vision-Language-Action Models, RSS 2025 (OpenVLA-OFT):
parallel decoding of the chunk, an MLP ResNet head, L1 loss.
"""

from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vega3d.train.acted import Acted
from vega3d.train.attention import ReaderLayer
from vega3d.train.batch import Batch
from vega3d.train.config import TrainConfig
from vega3d.train.tasks.asking import SceneReader
from vega3d.train.tasks.task import Sums, Targets, Task, masked_sum

_CLOSE = 0.1
_EACH = "l1_"


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

    def __init__(self, config: TrainConfig) -> None:
        """Build what asks for each action of a chunk, and the head."""
        super().__init__()
        dim, cameras = config.hidden_dim, config.views_per_sample
        self.camera = nn.Parameter(torch.randn(cameras, 1, dim) * 0.02)
        self.step = nn.Parameter(torch.randn(config.action_chunk, config.text_dim) * 0.02)
        self.state = nn.Linear(config.proprio_dim, config.text_dim) if config.proprio_dim else None
        self.reader = SceneReader(dim, config.text_dim, config.heads)
        self.mixing = ReaderLayer(dim, config.heads)
        self.head = _Head(dim, config.action_dim)

    @classmethod
    def from_config(cls, config: TrainConfig) -> Self:
        """Return the task of a run."""
        return cls(config)

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
            "valid": batch.valid.flatten(1),
            "count": there.sum() * acted.chunk.shape[-1],
        }

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Tensor:
        """Return the normalised actions [B, K, A]."""
        asked = targets["text"][:, None] + self.step
        if self.state is not None:
            asked = asked + self.state(targets["proprio"])[:, None]
        seen = (tokens + self.camera).flatten(1, 2)
        found = self.reader(asked, seen, targets["valid"])
        every = torch.ones(found.shape[:-1], dtype=torch.bool, device=found.device)
        return self.head(self.mixing(found, every)).float()  # type: ignore[no-any-return]

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


class _Head(nn.Module):
    """OpenVLA-OFT's head: two residual layers."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU()) for _ in range(2)
        )
        self.last = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, out_dim))

    def forward(self, found: Tensor) -> Tensor:
        found = self.first(found)
        for layer in self.layers:
            found = found + layer(found)
        return self.last(found)  # type: ignore[no-any-return]
