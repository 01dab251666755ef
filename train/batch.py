"""What a step works on: aligned tokens of both streams, where they are in space, and their seeds.

Letters: B samples, V views of a sample, N tokens of a view (row by row), Dg and Ds channels of the
generative and the semantic stream. Cameras are OpenCV cameras (x right, y down, z forward), metres.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, device

from vega3d.train.acted import Acted
from vega3d.train.asked import Asked


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one step, or of the part of it that this process works on."""

    scene_ids: tuple[str, ...]
    """One a sample."""

    views: Int64[Tensor, "B V"]
    """Index of each view within its scene."""

    gen: Float[Tensor, "B V N Dg"]
    """Generative tokens as stored, NaN where not valid."""

    sem: Float[Tensor, "B V N Ds"]
    """Semantic tokens as stored, NaN where not valid."""

    valid: Bool[Tensor, "B V N"]
    """True where both streams have a feature."""

    xyz_world: Float32[Tensor, "B V N 3"]
    """Position of a token's point, metres; NaN where `has_depth` is False."""

    xyz_camera: Float32[Tensor, "B V N 3"]
    """The same point in its own view's camera."""

    asked: Bool[Tensor, "B V"]
    """False for a view that only fills up a sample: it is asked elsewhere, or already was."""

    has_depth: Bool[Tensor, "B V N"]
    """True where the token is valid and enough of its pixels were measured, with a known pose."""

    world_from_camera: Float32[Tensor, "B V 4 4"]
    """Poses; NaN where unknown."""

    seeds: Int64[Tensor, "B V"]
    """One a view, epoch and seed: pairs and dropout are drawn from it."""

    labels: Int64[Tensor, "B V N"] | None = None
    """Class of a token, -1 for none."""

    questions: dict[str, Asked | Acted] | None = None
    """What annotation files ask of the samples' scenes, or what was done there, by task."""

    def to(self, where: device) -> "Batch":
        """Return the batch on another device; a pinned one is copied without waiting."""
        moved: dict[str, Any] = {
            field.name: getattr(self, field.name).to(where, non_blocking=True)
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        if self.questions is not None:
            moved["questions"] = {name: one.to(where) for name, one in self.questions.items()}
        return replace(self, **moved)
