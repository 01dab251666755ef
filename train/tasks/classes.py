"""The class of every token, from a label store.

Letters: B samples, V views, N tokens of a view, D channels of a token.
"""

from typing import ClassVar, Self

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from vega3d.train.batch import Batch
from vega3d.train.config import TrainConfig
from vega3d.train.tasks.task import Sums, Targets, Task, masked_sum, mlp_head


class ClassesTask(Task):
    """The class of every labelled token: accuracy."""

    name = "classes"
    primary = "accuracy"
    meanings: ClassVar[dict[str, str]] = {"accuracy": "right classes"}
    unanswered = "no scored view has a labelled token"
    needs_depth = False

    def __init__(self, dim: int, num_classes: int) -> None:
        """Build a head of `num_classes` logits."""
        super().__init__()
        self.head = mlp_head(dim, dim, num_classes)
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run."""
        return cls(config.hidden_dim, config.num_classes)

    def targets(self, batch: Batch) -> Targets:
        """Ask the class of every valid token that has one."""
        if batch.labels is None:
            raise ValueError("the task classes needs a label store: pass --labels STORE")
        asked = batch.valid & batch.asked[..., None] & (batch.labels >= 0)
        return {"labels": batch.labels, "asked": asked, "count": asked.sum()}

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Tensor:
        """Return logits."""
        del targets
        return self.head(tokens).float()  # type: ignore[no-any-return]

    def loss_sum(self, prediction: Tensor, targets: Targets) -> Tensor:
        """Return the cross-entropy, summed."""
        asked = targets["asked"]
        return cross_entropy(prediction[asked], targets["labels"][asked], reduction="sum")

    def metric_sums(self, prediction: Tensor, targets: Targets) -> Sums:
        """Return the accuracy."""
        right = prediction.argmax(dim=-1) == targets["labels"]
        return {"accuracy": masked_sum(right, targets["asked"])}
