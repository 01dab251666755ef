"""Can a token find its counterpart? AUROC and 3D correspondence recall over view pairs.

Unlike the means of pairs.py these need every pair's similarity, so they are computed for a capped
number of view pairs, spread evenly over those that share a voxel. What comes back are counts, which
merge by addition. Letters: P view pairs, B histogram bins, T thresholds, M cells, N tokens, C
channels, S shared voxels of two views.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from vega3d.evaluate.cells import Cells, Tokens
from vega3d.evaluate.config import Pairs, ScoreConfig

RECALL_COUNTS = ("possible", "nearest", "mutual", "mutual_right", "chance")
"""Of the tokens of one view that have a counterpart in the other within the threshold (possible):
those whose nearest neighbour in feature space is one (nearest); of ALL tokens those whose neighbour
is mutual (mutual), mutual and within the threshold (mutual_right); and of the possible ones the
expected number right by blind choice (chance)."""

ONE_BIN = 1e-6
"""Cosines this close to 1 are alike: the difference is rounding error of float32."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewPairs:
    """View pairs that share a voxel, and how they are seen."""

    first: Int[np.ndarray, " P"]
    second: Int[np.ndarray, " P"]
    rotation_deg: Float[np.ndarray, " P"]
    """Angle between the two cameras; NaN where a pose is unknown."""
    num_sharing: int
    """Pairs that share a voxel, before the cap; 0 where the cap is 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Separation:
    """Histograms of the cosine of matching and of other cell pairs, in the bins of bin_edges."""

    matched: Int[np.ndarray, " B"]
    other: Int[np.ndarray, " B"]

    def __add__(self, other: "Separation") -> "Separation":
        return Separation(self.matched + other.matched, self.other + other.other)

    @property
    def auroc(self) -> float | None:
        """Chance that a matching pair is more alike than another; pairs of one bin count half."""
        total = int(self.matched.sum()) * int(self.other.sum())
        if not total:
            return None
        below = np.cumsum(self.other) - self.other
        return float((self.matched * (below + 0.5 * self.other)).sum() / total)

    @property
    def auroc_error(self) -> float | None:
        """Most by which binning can have moved the AUROC."""
        total = int(self.matched.sum()) * int(self.other.sum())
        if not total:
            return None
        return float((self.matched * 0.5 * self.other).sum() / total)


@dataclass(frozen=True, slots=True, eq=False)
class RecallCounts:
    """Counts of RECALL_COUNTS by bin and threshold; the last rotation bin is `pose unknown`."""

    by_rotation: Float[np.ndarray, "R T 5"]
    by_overlap: Float[np.ndarray, "O T 5"]
    """By the overlap that the asking view has with the other."""

    def __add__(self, other: "RecallCounts") -> "RecallCounts":
        return RecallCounts(
            self.by_rotation + other.by_rotation, self.by_overlap + other.by_overlap
        )

    @property
    def overall(self) -> Float[np.ndarray, "T 5"]:
        """Counts over all view pairs."""
        counts: np.ndarray = self.by_overlap.sum(axis=0)
        return counts


def choose_view_pairs(
    cells: Cells, num_views: int, poses: Float[np.ndarray, "V 4 4"], pairs: Pairs, limit: int
) -> ViewPairs:
    """Return at most `limit` view pairs that share a voxel, spread evenly in order (i, j), i < j.

    Args:
        cells: Cells whose voxel is seen from two views or more.
        num_views: Views of the scene.
        poses: World-from-camera; NaN where unknown.
        pairs: Every two views, or neighbours only.
        limit: Most pairs returned; 0: the cells are not even looked at.
    """
    if not limit:
        none = np.zeros(0, dtype=np.int64)
        return ViewPairs(none, none, np.zeros(0), 0)
    meet = np.zeros((num_views, num_views), dtype=bool)
    bounds = np.flatnonzero(np.diff(cells.voxel, prepend=-1, append=-1))
    for start, stop in pairwise(bounds):
        views = cells.view[start:stop]
        meet[views[:, None], views] = True
    wanted = np.triu(meet, k=1)
    if pairs == "adjacent":
        wanted &= ~np.triu(wanted, k=2)
    first, second = np.nonzero(wanted)
    num_sharing = len(first)
    if num_sharing > limit:
        kept = np.arange(limit) * num_sharing // limit
        first, second = first[kept], second[kept]
    return ViewPairs(
        first, second, _rotation_deg(poses[first, :3, :3], poses[second, :3, :3]), num_sharing
    )


def separation(
    vectors: Float[np.ndarray, "M C"], cells: Cells, pairs: ViewPairs, bins: int
) -> Separation:
    """Count the cosines of all cell pairs of the chosen view pairs, matching ones apart."""
    matched, every = np.zeros(bins, dtype=np.int64), np.zeros(bins, dtype=np.int64)
    order = np.argsort(cells.view, kind="stable")  # keeps voxels rising within a view
    bounds = np.searchsorted(cells.view[order], np.arange(int(cells.view.max(initial=-1)) + 2))
    for i, j in zip(pairs.first, pairs.second, strict=True):
        a, b = order[bounds[i] : bounds[i + 1]], order[bounds[j] : bounds[j + 1]]
        bin_of = _bin(vectors[a] @ vectors[b].T, bins)
        every += np.bincount(bin_of.ravel(), minlength=bins)
        _, in_a, in_b = np.intersect1d(
            cells.voxel[a], cells.voxel[b], assume_unique=True, return_indices=True
        )
        matched += np.bincount(bin_of[in_a, in_b], minlength=bins)
    return Separation(matched, every - matched)


def recall_counts(
    units: Mapping[str, Float[np.ndarray, "N C"]],
    tokens: Tokens,
    pairs: ViewPairs,
    config: ScoreConfig,
) -> dict[str, RecallCounts]:
    """Count right correspondences of the chosen view pairs, both ways, by nearest neighbour.

    Args:
        units: By treatment: tokens of length one.
        tokens: Where they are.
        pairs: The view pairs.
        config: Thresholds and bins.

    The overlap of a view with another is the share of its tokens that have a token of the other
    within `overlap_m`.

    Source: correspondence recall by relative rotation as in probe3d (mbanani/probe3d), with our
    choice of queries: tokens that do have a counterpart within the threshold. Precision is over all
    mutual matches, since whoever uses them does not know which tokens have a counterpart.
    """
    num_thresholds = len(config.recall_m)
    found = {
        name: RecallCounts(
            np.zeros((len(config.rotation_edges_deg), num_thresholds, 5)),
            np.zeros((len(config.overlap_edges) - 1, num_thresholds, 5)),
        )
        for name in units
    }
    rotation_bin = bin_index(pairs.rotation_deg, config.rotation_edges_deg)
    bounds = np.searchsorted(tokens.view, np.arange(tokens.num_views + 1))
    for k, (i, j) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        a, b = slice(bounds[i], bounds[i + 1]), slice(bounds[j], bounds[j + 1])
        *near, close = _near(tokens.xyz[a], tokens.xyz[b], (*config.recall_m, config.overlap_m))
        overlap = np.array([close.any(axis=1).mean(), close.any(axis=0).mean()])
        overlap_bin = bin_index(overlap, config.overlap_edges)
        possible = np.array([[_possible(one) for one in near], [_possible(one.T) for one in near]])
        for name, unit in units.items():
            counts = _count_right(unit[a] @ unit[b].T, near)
            counts[:, :, [0, 4]] = possible
            found[name].by_rotation[rotation_bin[k]] += counts.sum(axis=0)
            for side in (0, 1):
                found[name].by_overlap[overlap_bin[side]] += counts[side]
    return found


def bin_index(values: Float[np.ndarray, " P"], edges: tuple[float, ...]) -> Int[np.ndarray, " P"]:
    """Return each value's bin (edges[k], edges[k + 1]]; ends are clipped, NaN is the bin after."""
    last = len(edges) - 2
    index = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, last)
    return np.where(np.isnan(values), last + 1, index)


def _near(
    first: Float[np.ndarray, "N 3"], second: Float[np.ndarray, "K 3"], thresholds_m: Sequence[float]
) -> list[Bool[np.ndarray, "N K"]]:
    """Tell which tokens lie within each threshold of one another."""
    squared = np.zeros((len(first), len(second)))
    for axis in range(3):
        squared += np.subtract.outer(first[:, axis], second[:, axis]) ** 2
    return [squared <= threshold**2 for threshold in thresholds_m]


def _possible(near: Bool[np.ndarray, "N K"]) -> Float[np.ndarray, " 2"]:
    """Return how many rows have a counterpart, and how many a blind choice would get right."""
    close = np.count_nonzero(near, axis=1)
    return np.array([np.count_nonzero(close), close.sum() / max(near.shape[1], 1)])


def _count_right(
    likeness: Float[np.ndarray, "N K"], near: Sequence[Bool[np.ndarray, "N K"]]
) -> Float[np.ndarray, "2 T 5"]:
    """Count nearest, mutual and mutual_right of RECALL_COUNTS, rows and columns as queries."""
    counts = np.zeros((2, len(near), 5))
    best, back = likeness.argmax(axis=1), likeness.argmax(axis=0)
    rows, columns = np.arange(len(best)), np.arange(len(back))
    for side, (query, match, other) in enumerate(((rows, best, back), (columns, back, best))):
        mutual = other[match] == query
        for k, one in enumerate(near):
            right = (one.T if side else one)[query, match]
            counts[side, k, 1:4] = [right.sum(), mutual.sum(), (mutual & right).sum()]
    return counts


def _rotation_deg(
    first: Float[np.ndarray, "P 3 3"], second: Float[np.ndarray, "P 3 3"]
) -> Float[np.ndarray, " P"]:
    """Return the angle of second_from_first, degrees."""
    trace = np.einsum("pij,pij->p", first, second)
    degrees: np.ndarray = np.degrees(np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0)))
    return degrees


def bin_edges(bins: int) -> Float[np.ndarray, " edges"]:
    """Return the cosines at the edges of the histogram bins, rising from -1 to 1."""
    chord = np.linspace(2.0, 0.0, bins + 1)
    edges: np.ndarray = np.clip(1.0 - chord**2 / 2.0, -1.0, 1.0)
    return edges


def _bin(cosine: Float[np.ndarray, "N K"], bins: int) -> Int[np.ndarray, "N K"]:
    """Return the histogram bin of each cosine, rising: equal bins of the distance on the sphere.

    Those are finer near 1, where the cosines of features with a common offset crowd.
    """
    chord = np.sqrt(np.maximum(2.0 * (1.0 - ONE_BIN - cosine), 0.0))
    return np.maximum(bins - 1 - (chord * (bins / 2)).astype(np.int64), 0)
