"""What was done after the frames of a batch: chunks of actions, states, and the instruction.

Letters: B samples (a frame each), K actions of a chunk, A numbers of an action, P of a state,
E numbers of a text's vector.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from jaxtyping import Bool, Float32
from torch import Tensor, device


@dataclass(frozen=True, kw_only=True)
class Acted:
    """The demonstrated chunks; numbers are normalised."""

    chunk: Float32[Tensor, "B K A"]
    """The actions from a frame on; 0 where `there` is False."""

    there: Bool[Tensor, "B K"]
    """False beyond the end of a demonstration."""

    proprio: Float32[Tensor, "B P"]
    """The robot's state at the frame."""

    text: Float32[Tensor, "B E"]
    """What the robot was told to do."""

    def to(self, where: device) -> "Acted":
        """Return them on another device."""
        return self._each(lambda value: value.to(where, non_blocking=True))

    def part(self, rows: slice) -> "Acted":
        """Return those of some samples."""
        return self._each(lambda value: value[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Acted":
        return replace(self, **{one.name: change(getattr(self, one.name)) for one in fields(self)})
