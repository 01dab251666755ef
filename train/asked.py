"""What is asked of the scenes of a batch: texts as vectors, candidates, and the right answers.

Letters: B samples, Q questions of a sample (the longest's; others are padded), E numbers of a
text's vector, P phrases of a text, O candidate boxes of a scene, T target boxes, A answers to
choose from.
"""

from dataclasses import dataclass, fields, replace

from jaxtyping import Bool, Float32, Int64
from torch import Tensor, device

NEEDS = ("geometry", "appearance", "both")
"""What an item may say it needs; its place here is its number, -1 for none."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions of one task."""

    index: Int64[Tensor, "B Q"]
    """Which of the task's items; -1 where a sample has no more."""

    benchmark: Int64[Tensor, "B Q"]
    """Place of the item's benchmark in the task's list."""

    needs: Int64[Tensor, "B Q"]
    """Place in NEEDS, -1 for none."""

    text: Float32[Tensor, "B Q E"]

    phrases: Float32[Tensor, "B Q P E"] | None = None
    """Vectors of what each text speaks of, in its order; 0 pads. None where no task reads them."""

    choices: Float32[Tensor, "B Q A E"] | None = None
    """Vectors of what each question offers; None where all share a bank."""

    bank: Float32[Tensor, "A E"] | None = None
    """Vectors of the answers that the training items have."""

    right: Bool[Tensor, "B Q A"]
    """Choices that are right to learn from. Grounding: O boxes and, last, none of them."""

    open: Bool[Tensor, "B Q A"]
    """Choices that there are; the others pad."""

    worth: Float32[Tensor, "B Q A"]
    """What each choice is worth in the benchmark's own metric, in [0, 1]."""

    number: Float32[Tensor, "B Q"]
    """The right answer where it is a number, else NaN."""

    boxes: Float32[Tensor, "B O 6"]
    """Candidates, centre and size in metres; NaN pads."""

    targets: Float32[Tensor, "B Q T 6"]
    """Boxes that are meant; NaN pads."""

    def to(self, where: device) -> "Asked":
        """Return the questions on another device."""
        return self._each(lambda value: value.to(where, non_blocking=True))

    def part(self, rows: slice) -> "Asked":
        """Return those of some samples."""
        return replace(self._each(lambda value: value[rows]), bank=self.bank)

    def _each(self, change) -> "Asked":  # type: ignore[no-untyped-def] # noqa: ANN001
        changed = {
            field.name: change(getattr(self, field.name))
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, **changed)
