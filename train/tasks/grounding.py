"""Which boxes a description means: ScanRefer and Multi3DRefer.

Letters: B samples, V views, N tokens of a view, D channels, Q descriptions, O candidate boxes.
"""

from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from vega3d.evaluate.benchmarks.boxes import iou
from vega3d.evaluate.benchmarks.multi3drefer import f1, select_boxes
from vega3d.train.config import TrainConfig
from vega3d.train.tasks.asking import (
    NEED_MEANINGS,
    AskingTask,
    info_nce,
    pool_boxes,
)
from vega3d.train.tasks.relations import Relations, place_errors
from vega3d.train.tasks.task import Sums, Targets, masked_sum

_THRESHOLDS = (0.25, 0.5)
_LOUD = 4.0  # a text's vector has length 1, and one word in a dozen is a small part of it


class Grounded(NamedTuple):
    """What the head says of the candidates."""

    scores: Float[Tensor, "B Q A"]
    """A cosine and what relations add to it, of O candidates and, last, of none of them."""

    places: Float[Tensor, "B O 3"]
    """Where each is said to be, metres from the scene's middle."""

    seen: Bool[Tensor, "B O"]
    """Candidates with a token inside."""


class GroundingTask(AskingTask):
    """Score the candidate boxes of a scene, and a slot that stands for none of them.

    A candidate is the mean of the fused tokens inside it: what it looks like is matched with the
    text, where it lies to others is told by `Relations`. One box for ScanRefer; for Multi3DRefer
    as many as the released script takes.

    Source of loss and selection: H-EmbodVis/VEGA-3D @ 9c96924, ground_head and
    llava/eval/eval_multi3drefer.py; Zhang et al., Multi3DRefer, ICCV 2023.
    """

    name = "grounding"
    primary = "score"
    benchmarks = ("scanrefer", "multi3drefer")
    needs_depth = True
    meanings: ClassVar[dict[str, str]] = {
        "score": "mean of Acc@0.5 and F1@0.5 over all descriptions",
        "acc25": "ScanRefer's boxes found, IoU 0.25",
        "acc50": "ScanRefer's boxes found, IoU 0.5",
        "f1_25": "Multi3DRefer's F1, IoU 0.25",
        "f1_50": "Multi3DRefer's F1, IoU 0.5",
        **NEED_MEANINGS,
    }
    unanswered = "no scored scene has a description"

    def __init__(self, dim: int, text_dim: int) -> None:
        """Build what is matched, the relations and the slot."""
        super().__init__()
        self.object = nn.Linear(dim, dim)
        self.query = nn.Linear(text_dim, dim)
        self.relations = Relations(dim, text_dim)
        self.unseen = nn.Parameter(torch.randn(dim) * 0.02)
        self.none = nn.Parameter(torch.randn(dim))

    @classmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run."""
        return cls(config.hidden_dim, config.text_dim)

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Grounded:
        """Return the scores of the candidates and of none, and where they are said to be."""
        boxes, text = targets["boxes"], _LOUD * targets["text"]
        pooled, seen = pool_boxes(tokens.flatten(1, 2), targets["xyz"], targets["has_depth"], boxes)
        objects = torch.where(seen[..., None], pooled, self.unseen)
        keys = normalize(self.object(objects).float(), dim=-1)
        query = normalize(self.query(text).float(), dim=-1)
        there = boxes.isfinite().all(dim=-1)
        added, places = self.relations(text, objects, keys, there)
        none = (query @ normalize(self.none.float(), dim=-1))[..., None]
        scores = torch.cat([query @ keys.transpose(1, 2) + added, none], dim=-1)
        return Grounded(scores, places, seen)

    def loss_sum(self, prediction: Grounded, targets: Targets) -> Tensor:
        """Return InfoNCE over the candidates and the slot, and the errors of the told places."""
        apart = place_errors(prediction.places, targets["boxes"], prediction.seen)
        asked = targets["learnable"].sum(dim=1)
        return info_nce(prediction.scores, targets) + (apart * asked).sum()

    def metric_sums(self, prediction: Grounded, targets: Targets) -> Sums:
        """Return both benchmarks' metrics."""
        found = torch.zeros(len(_THRESHOLDS), *targets["there"].shape, dtype=torch.float64)
        for b, q in targets["there"].nonzero().tolist():
            chosen = self._chosen(prediction, targets, b, q)
            meant = _boxes(targets["targets"][b, q])
            for row, threshold in enumerate(_THRESHOLDS):
                found[row, b, q] = self._worth(
                    chosen, meant, threshold, int(targets["benchmark"][b, q])
                )
        found = found.to(prediction.scores.device)
        sums = self.sums(found[1], targets)
        for number, names in enumerate((("acc25", "acc50"), ("f1_25", "f1_50"))):
            mine = targets["there"] & (targets["benchmark"] == number)
            sums |= {name: masked_sum(found[row], mine) for row, name in enumerate(names)}
        return sums

    def answers(
        self, prediction: Grounded, targets: Targets, bank: tuple[str, ...]
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return the boxes that are chosen."""
        records = []
        for b, q in targets["there"].nonzero().tolist():
            boxes = [box.tolist() for box in self._chosen(prediction, targets, b, q)]
            one = int(targets["benchmark"][b, q]) == 0
            told = {"box": boxes[0]} if one else {"boxes": boxes}
            records.append((int(targets["index"][b, q]), told))
        return records

    def _chosen(self, prediction: Grounded, targets: Targets, b: int, q: int) -> list[np.ndarray]:
        boxes = _boxes(targets["boxes"][b])
        scores = prediction.scores[b, q].detach().float()
        if int(targets["benchmark"][b, q]) == 0:
            # Where no box is the best answer, the released script takes the best box.
            return [boxes[int(scores[: len(boxes)].argmax())]]
        kept = [*scores[: len(boxes)].tolist(), float(scores[-1])]
        return select_boxes(boxes, kept)

    def _worth(
        self, chosen: list[np.ndarray], meant: list[np.ndarray], threshold: float, benchmark: int
    ) -> float:
        if benchmark == 0:
            return float(iou(chosen[0], meant[0]) >= threshold)
        return f1(chosen, meant, threshold)


def _boxes(padded: Float[Tensor, "O 6"]) -> list[np.ndarray]:
    """Return the rows that are boxes, in double precision."""
    kept = padded[padded.isfinite().all(dim=-1)]
    return list(kept.double().cpu().numpy())
