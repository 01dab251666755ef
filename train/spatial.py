"""The spatial tasks: metric depth, displacement, cross-view matching; and classes from labels.

Letters: B samples, V views, N tokens of a view, D channels of a token, P token pairs of a view,
Q ordered view pairs of a sample, E channels of a matching descriptor.
"""

import itertools
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, smooth_l1_loss

from vega3d.train.batch import Batch
from vega3d.train.randomness import uniform
from vega3d.train.tasks import Sums, Targets, Task, masked_sum, mlp_head

_MIN_DEPTH_M = 0.05
_MIN_STEP_M = 0.1  # below it left and right, above and below, are a matter of noise
_PAIRS_A_VIEW = 64
_PAIR_SALT = 1 << 20
_DESCRIPTOR_DIM = 64
_TEMPERATURE = 0.07
_ROTATION_EDGES_DEG = (0, 15, 30, 60, 180)
_RELATIVE_LIMITS = tuple(round(1 - (0.5 + 0.05 * step), 2) for step in range(10))  # 0.5 .. 0.05


class DepthTask(Task):
    """Metric depth of every token: AbsRel (0 best) and the share within a factor of 1.25.

    Source of the metrics: Eigen, Puhrsch and Fergus, NeurIPS 2014, sec. 4.2.
    """

    name = "depth"
    primary = "delta125"

    def __init__(self, dim: int) -> None:
        """Build a head that gives log metres."""
        super().__init__()
        self.head = mlp_head(dim, dim, 1)

    def targets(self, batch: Batch) -> Targets:
        """Ask the depth of every token that has one."""
        depth_m = batch.xyz_camera[..., 2]
        asked = batch.has_depth & batch.asked[..., None] & (depth_m > _MIN_DEPTH_M)
        return {"depth_m": depth_m, "asked": asked, "count": asked.sum()}

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Tensor:
        """Return log depth, metres."""
        del targets
        return self.head(tokens)[..., 0].float()  # type: ignore[no-any-return]

    def loss_sum(self, prediction: Tensor, targets: Targets) -> Tensor:
        """Return the absolute errors of log depth, summed."""
        asked = targets["asked"]
        error = (prediction[asked] - targets["depth_m"][asked].log()).abs()
        return error.sum()

    def metric_sums(self, prediction: Tensor, targets: Targets) -> Sums:
        """Return AbsRel and delta < 1.25."""
        true_m, asked = targets["depth_m"], targets["asked"]
        ratio = prediction.exp() / true_m
        within = torch.maximum(ratio, 1 / ratio) < 1.25
        return {
            "absrel": masked_sum((ratio - 1).abs(), asked),
            "delta125": masked_sum(within, asked),
        }


class DisplacementTask(Task):
    """The step from one token of a view to another, along the camera's axes.

    Mean relative accuracy of its length, and whether left or right, above or below, nearer or
    farther came out right (steps of 10 cm or more along that axis).

    Source of the accuracy: VSI-Bench, Yang et al., arXiv 2412.14171, sec. 3.3: the mean over
    limits t = 0.5, 0.55 .. 0.95 of whether |estimate - truth| / truth < 1 - t.
    """

    name = "displacement"
    primary = "mra"
    _AXES = ("left_right", "above_below", "nearer_farther")

    def __init__(self, dim: int) -> None:
        """Build a head over two tokens that gives metres along x, y, z."""
        super().__init__()
        self.head = mlp_head(2 * dim, dim, 3)

    def targets(self, batch: Batch) -> Targets:
        """Ask pairs of tokens drawn from the views' seeds."""
        drawn = uniform(batch.seeds, 2 * _PAIRS_A_VIEW, _PAIR_SALT)
        pairs = (drawn * batch.valid.shape[-1]).long().unflatten(-1, (2, _PAIRS_A_VIEW))  # type: ignore[no-untyped-call]
        start, end = pairs.unbind(dim=-2)
        asked = batch.has_depth.gather(-1, start) & batch.has_depth.gather(-1, end)
        asked &= batch.asked[..., None] & (start != end)
        step_m = _pick(batch.xyz_camera, end) - _pick(batch.xyz_camera, start)
        return {"start": start, "end": end, "step_m": step_m, "asked": asked, "count": asked.sum()}

    def forward(self, tokens: Float[Tensor, "B V N D"], targets: Targets) -> Tensor:
        """Return the step of every pair, metres."""
        both = torch.cat([_pick(tokens, targets["start"]), _pick(tokens, targets["end"])], dim=-1)
        return self.head(both).float()  # type: ignore[no-any-return]

    def loss_sum(self, prediction: Tensor, targets: Targets) -> Tensor:
        """Return the absolute errors in metres, rounded off below 10 cm, summed over the axes."""
        asked = targets["asked"]
        return smooth_l1_loss(
            prediction[asked], targets["step_m"][asked], reduction="sum", beta=_MIN_STEP_M
        )

    def metric_sums(self, prediction: Tensor, targets: Targets) -> Sums:
        """Return the length's mean relative accuracy, and the accuracy of the three directions."""
        step_m, asked = targets["step_m"], targets["asked"]
        length_m = step_m.norm(dim=-1)
        relative = (prediction.norm(dim=-1) - length_m).abs() / length_m
        limits = torch.tensor(_RELATIVE_LIMITS, device=relative.device)
        accuracy = (relative[..., None] < limits).double().mean(dim=-1)
        sums: Sums = {"mra": masked_sum(accuracy, asked & (length_m >= _MIN_STEP_M))}
        for axis, name in enumerate(self._AXES):
            right = prediction[..., axis].sign() == step_m[..., axis].sign()
            sums[name] = masked_sum(right, asked & (step_m[..., axis].abs() >= _MIN_STEP_M))
        return sums


class MatchingTask(Task):
    """Find the token of another view that shows the same point.

    InfoNCE over the tokens of the other view, all within the radius being right; recall of the
    nearest descriptor, also by the angle between the cameras.

    Source of the loss: van den Oord et al., arXiv 1807.03748, Eq. 4, with several positives.
    """

    name = "matching"
    primary = "recall"
    adjacent_views = True

    def __init__(self, dim: int, radius_m: float = 0.1) -> None:
        """Build a head that gives descriptors."""
        super().__init__()
        self.head = mlp_head(dim, dim, _DESCRIPTOR_DIM)
        self.radius_m = radius_m

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
        for low, high in itertools.pairwise(_ROTATION_EDGES_DEG):
            inside = (angle_deg >= low) & ((angle_deg < high) | (high == 180))
            sums[f"recall_rot{low:03d}_{high:03d}"] = masked_sum(hit, asked & inside)
        return sums


class LabelTask(Task):
    """The class of every labelled token: accuracy."""

    name = "classes"
    primary = "accuracy"

    def __init__(self, dim: int, num_classes: int) -> None:
        """Build a head of `num_classes` logits."""
        super().__init__()
        self.head = mlp_head(dim, dim, num_classes)
        self.num_classes = num_classes

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


def rotation_angle_deg(
    world_from_camera: Float[Tensor, "B V 4 4"],
    view_a: Int[Tensor, " Q"],
    view_b: Int[Tensor, " Q"],
) -> Float[Tensor, "B Q"]:
    """Return the angle between the cameras of every view pair; NaN where a pose is unknown."""
    rotation = world_from_camera[..., :3, :3].double()
    trace = (rotation[:, view_a] * rotation[:, view_b]).sum(dim=(-2, -1))  # of R_a^T R_b
    return ((trace - 1) / 2).clamp(-1, 1).arccos() * (180 / math.pi)


def _pick(
    values: Float[Tensor, "B V N C"], index: Int[Tensor, "B V P"]
) -> Float[Tensor, "B V P C"]:
    return values.gather(-2, index[..., None].expand(*index.shape, values.shape[-1]))


def _by_query(targets: Targets) -> Bool[Tensor, "B Q N M"]:
    return targets["candidates"][:, :, None, :].expand_as(targets["right"])
