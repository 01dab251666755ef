"""Find the same point in another view.

Letters: B samples, V views, N tokens of a view, D channels of a token,
Q ordered view pairs of a sample, E channels of a descriptor.
"""

import itertools
import math
from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from vega3d.train.batch import Batch
from vega3d.train.config import TrainConfig
from vega3d.train.tasks.task import Sums, Targets, Task, masked_sum, mlp_head

_DESCRIPTOR_DIM = 64
_TEMPERATURE = 0.07
_ANGLES = tuple(
    (f"recall_rot{low:03d}_{high:03d}", low, high)
    for low, high in itertools.pairwise((0, 15, 30, 60, 180))  # degrees
)


class MatchingTask(Task):
    """Find the token of another view that shows the same point.

    InfoNCE over the tokens of the other view, all within the radius being right; recall of the
    nearest descriptor, also by the angle between the cameras.

    Source of the loss: van den Oord et al., arXiv 1807.03748, Eq. 4, with several positives.
    """

    name = "matching"
    primary = "recall"
    meanings: ClassVar[dict[str, str]] = {
        "recall": "matches within the radius",
        "recall_guess": "the same for a blind guess",
        **{name: f"matches, cameras {low} to {high} degrees apart" for name, low, high in _ANGLES},
    }
    unanswered = "no two scored views share a point"
    adjacent_views = True

    def __init__(self, dim: int, radius_m: float = 0.1) -> None:
        """Build a head that gives descriptors."""
        super().__init__()
        self.head = mlp_head(dim, dim, _DESCRIPTOR_DIM)
        self.radius_m = radius_m

    @classmethod
    def from_config(cls, config: TrainConfig, grid: tuple[int, int]) -> Self:
        """Return the task of a run."""
        return cls(config.hidden_dim, config.match_radius_m)

    def targets(self, batch: Batch) -> Targets:
        """Ask every token for its points in every other view of its sample."""
        num_views = batch.valid.shape[1]
        pairs = [(i, j) for i in range(num_views) for j in range(num_views) if i != j]
        view_a, view_b = torch.tensor(pairs, device=batch.valid.device).T
        xyz = torch.where(batch.has_depth[..., None], batch.xyz_world, 0.0)
        distance_m = torch.cdist(
            xyz[:, view_a], xyz[:, view_b], compute_mode="donot_use_mm_for_euclid_dist"
        )
        candidates = batch.has_depth[:, view_b]
        known = batch.has_depth[:, view_a, :, None] & candidates[:, :, None, :]
        right = (distance_m <= self.radius_m) & known
        # A pair of two fillers is asked in the sample before.
        wanted = batch.asked[:, view_a] | batch.asked[:, view_b]
        asked = right.any(dim=-1) & wanted[..., None]
        angle_deg = rotation_angle_deg(batch.world_from_camera, view_a, view_b)
        return {
            "view_a": view_a,
            "view_b": view_b,
            "right": right,
            "candidates": candidates,
            "angle_deg": angle_deg,
            "asked": asked,
            "count": asked.sum(),
        }

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Tensor:
        """Return cosines between the descriptors of the views of every pair, B Q N N."""
        descriptors = normalize(self.head(tokens).float(), dim=-1)
        first, second = descriptors[:, targets["view_a"]], descriptors[:, targets["view_b"]]
        with torch.autocast(tokens.device.type, enabled=False):
            return first @ second.transpose(-1, -2)

    def loss_sum(self, prediction: Tensor, targets: Targets) -> Tensor:
        """Return the negative log share of the right candidates, summed over the queries."""
        asked = targets["asked"]
        logits = prediction[asked] / _TEMPERATURE
        right, candidates = targets["right"][asked], _by_query(targets)[asked]
        every = logits.masked_fill(~candidates, -torch.inf).logsumexp(dim=-1)
        return (every - logits.masked_fill(~right, -torch.inf).logsumexp(dim=-1)).sum()

    def metric_sums(self, prediction: Tensor, targets: Targets) -> Sums:
        """Return recall, the recall of a blind guess, and recall by rotation between the views."""
        asked, right = targets["asked"], targets["right"]
        candidates = _by_query(targets)
        best = prediction.masked_fill(~candidates, -torch.inf).argmax(dim=-1, keepdim=True)
        hit = right.gather(-1, best)[..., 0]
        guess = right.sum(dim=-1) / candidates.sum(dim=-1).clamp(min=1)
        sums: Sums = {"recall": masked_sum(hit, asked), "recall_guess": masked_sum(guess, asked)}
        angle_deg = targets["angle_deg"][..., None]
        for name, low, high in _ANGLES:
            inside = (angle_deg >= low) & ((angle_deg < high) | (high == 180))
            sums[name] = masked_sum(hit, asked & inside)
        return sums


def rotation_angle_deg(
    world_from_camera: Float[Tensor, "B V 4 4"],
    view_a: Int[Tensor, " Q"],
    view_b: Int[Tensor, " Q"],
) -> Float[Tensor, "B Q"]:
    """Return the angle between the cameras of every view pair; NaN where a pose is unknown."""
    rotation = world_from_camera[..., :3, :3].double()
    trace = (rotation[:, view_a] * rotation[:, view_b]).sum(dim=(-2, -1))  # of R_a^T R_b
    return ((trace - 1) / 2).clamp(-1, 1).arccos() * (180 / math.pi)


def _by_query(targets: Targets) -> Bool[Tensor, "B Q N M"]:
    return targets["candidates"][:, :, None, :].expand_as(targets["right"])
