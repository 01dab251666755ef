"""Can a token find its counterpart? AUROC and 3D correspondence recall over view pairs.

Unlike the means of pairs.py these need every pair's similarity, so they are computed for a capped
number of view pairs, spread evenly over those that share a voxel. What comes back are counts, which
merge by addition. Letters: P view pairs, B histogram bins, T thresholds, M cells, N tokens, C
channels, S shared voxels of two views.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from vega3d.evaluate import fused, fused_pairs
from vega3d.evaluate.cells import Cells, Tokens, no_direction
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


def match(
    units: Mapping[str, Float[np.ndarray, "N C"]],
    tokens: Tokens,
    pairs: ViewPairs,
    config: ScoreConfig,
    *,
    cells: Cells | None = None,
    mean: Float64[np.ndarray, " C"] | None = None,
) -> tuple[dict[str, Separation], dict[str, RecallCounts]]:
    """Count cosines and right correspondences of the chosen view pairs.

    Args:
        units: By treatment: tokens of length one.
        tokens: Where they are.
        pairs: The view pairs.
        config: Thresholds and bins.
        cells: Those whose voxel is seen from two views or more; without them nothing is separated.
        mean: What `centred` took off. Where raw and centred tokens are both asked for, one product
            of two views' tokens is enough for both.

    Returns:
        By treatment: histograms of all cell pairs of the view pairs, matching ones apart; and right
        correspondences, both ways, by nearest neighbour. The overlap of a view with another is the
        share of its tokens that have a token of the other within `overlap_m`.

    Source: correspondence recall by relative rotation as in probe3d (mbanani/probe3d), with our
    choice of queries: tokens that do have a counterpart within the threshold. Precision is over all
    mutual matches, since whoever uses them does not know which tokens have a counterpart.
    """
    found = {name: _nothing_found(config) for name in units}
    bins = np.zeros((len(units), 2, config.histogram_bins), dtype=np.int64)
    parts = {} if cells is None else {name: _CellsOfViews(cells, units[name]) for name in units}
    rotation_bin = bin_index(pairs.rotation_deg, config.rotation_edges_deg)
    bounds = np.searchsorted(tokens.view, np.arange(tokens.num_views + 1))
    squared_m = np.square((*config.recall_m, config.overlap_m))
    products = _Products(units, bounds, mean)
    for k, (i, j) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        a, b = slice(bounds[i], bounds[i + 1]), slice(bounds[j], bounds[j + 1])
        sides = fused_pairs.near_counts(tokens.xyz[a], tokens.xyz[b], squared_m)
        overlap_bin = bin_index(
            np.array([(side[-1] > 0).mean() for side in sides]), config.overlap_edges
        )
        counts = _counts_of_places(sides)
        for n, (name, cosine) in enumerate(products.of(i, j)):
            if cells is not None:
                parts[name].count(cosine, i, j, bounds, bins[n])
            best, back = fused_pairs.nearest_both_ways(cosine)
            here, there = tokens.xyz[a], tokens.xyz[b]
            counts[0, :, 1:4] = fused_pairs.right_counts(best, back, here, there, squared_m[:-1])
            counts[1, :, 1:4] = fused_pairs.right_counts(back, best, there, here, squared_m[:-1])
            found[name].by_rotation[rotation_bin[k]] += counts.sum(axis=0)
            for side in (0, 1):
                found[name].by_overlap[overlap_bin[side]] += counts[side]
    separations = {
        name: Separation(matched, every - matched)
        for name, (every, matched) in zip(units, bins, strict=True)
    }
    return separations if cells is not None else {}, found


class _Products:
    """Cosines of the tokens of two views, treatment by treatment."""

    def __init__(
        self,
        units: Mapping[str, Float[np.ndarray, "N C"]],
        bounds: Int[np.ndarray, " bounds"],
        mean: Float64[np.ndarray, " C"] | None,
    ) -> None:
        self._units, self._bounds = units, bounds
        self._derived = mean is not None and {"raw", "centred"} <= units.keys()
        if mean is not None and self._derived:
            raw = units["raw"]
            self._along = raw @ mean.astype(raw.dtype) - float(mean @ mean) / 2
            apart = np.vecdot(raw, raw) - 2 * self._along
            self._lengths = np.sqrt(np.maximum(apart, 0.0))

    def of(self, i: int, j: int) -> Iterator[tuple[str, Float[np.ndarray, "N K"]]]:
        """Yield each treatment's name and cosines."""
        a, b = (slice(self._bounds[view], self._bounds[view + 1]) for view in (i, j))
        made = {
            name: unit[a] @ unit[b].T
            for name, unit in self._units.items()
            if not (self._derived and name == "raw")
        }
        for name in self._units:
            if name not in made:
                cosine = np.empty_like(made["centred"])
                lengths = self._lengths[a], self._lengths[b]
                along = self._along[a], self._along[b]
                fused_pairs.raw_of_centred(made["centred"], lengths, along, cosine)
                made[name] = cosine
            yield name, made[name]


class _CellsOfViews:
    """The shared cells of each view, with the lengths that their tokens' sums have."""

    def __init__(self, cells: Cells, unit: Float[np.ndarray, "N C"]) -> None:
        order = np.argsort(cells.view, kind="stable")  # keeps voxels rising within a view
        counts = np.diff(cells.starts)
        self._bounds = np.searchsorted(cells.view[order], np.arange(int(cells.view.max()) + 2))
        starts = np.concatenate([[0], np.cumsum(counts[order])])
        tokens = np.concatenate([cells.order[cells.starts[m] : cells.starts[m + 1]] for m in order])
        self._starts, self._tokens = starts, tokens
        self._voxel = cells.voxel[order]
        norms = fused.norms_of_sums(unit, tokens, starts)
        tiny = np.where(np.diff(starts) > 1, no_direction(unit.dtype), 0.0)
        self._scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > tiny)

    def count(
        self,
        cosine: Float[np.ndarray, "N K"],
        i: int,
        j: int,
        bounds: Int[np.ndarray, " bounds"],
        bins: Int[np.ndarray, "2 B"],
    ) -> None:
        """Add the cosines of all cells of two views to the histograms."""
        (first, scale), (second, other) = self._of(i, bounds), self._of(j, bounds)
        fused_pairs.add_to_histograms(
            cosine, first, second, (scale, other), ONE_BIN, bins[0], bins[1]
        )

    def _of(self, view: int, bounds: Int[np.ndarray, " bounds"]) -> tuple[Any, np.ndarray]:
        if view + 1 >= len(self._bounds):
            view, cells = 0, slice(0, 0)
        else:
            cells = slice(self._bounds[view], self._bounds[view + 1])
        starts = self._starts[cells.start : cells.stop + 1]
        tokens = self._tokens[starts[0] : starts[-1]] - bounds[view]
        return (tokens, starts - starts[0], self._voxel[cells]), self._scale[cells]


def _nothing_found(config: ScoreConfig) -> RecallCounts:
    num_thresholds = len(config.recall_m)
    return RecallCounts(
        np.zeros((len(config.rotation_edges_deg), num_thresholds, 5)),
        np.zeros((len(config.overlap_edges) - 1, num_thresholds, 5)),
    )


def bin_index(values: Float[np.ndarray, " P"], edges: tuple[float, ...]) -> Int[np.ndarray, " P"]:
    """Return each value's bin (edges[k], edges[k + 1]]; ends are clipped, NaN is the bin after."""
    last = len(edges) - 2
    index = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, last)
    return np.where(np.isnan(values), last + 1, index)


def _counts_of_places(
    sides: tuple[Int[np.ndarray, "T N"], Int[np.ndarray, "T K"]],
) -> Float[np.ndarray, "2 T 5"]:
    """Return RECALL_COUNTS with what is known without features: possible, and by chance.

    Args:
        sides: From `near_counts`; the last threshold is the overlap's.
    """
    counts = np.zeros((2, len(sides[0]) - 1, 5))
    for side, (near, other) in enumerate((sides, sides[::-1])):
        counts[side, :, 0] = np.count_nonzero(near[:-1], axis=1)
        counts[side, :, 4] = near[:-1].sum(axis=1) / max(other.shape[1], 1)
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
