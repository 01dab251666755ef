"""Sums of cosines over pairs of cells, in time linear in the number of cells.

For unit vectors h_1..h_n the sum over pairs is (|sum h|^2 - n) / 2, so no pair is ever visited.
Where a vector has no direction (zero) the n is the sum of squared lengths instead: its pairs count
as cosine 0. All sums are float64. Letters as in cells.py.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from vega3d.evaluate.cells import Cells, Tokens

CHANCE_CEILING = 1.0 - 1e-9
"""From this random-pair mean on, features are one constant and above-chance is 0 by definition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSums:
    """Sums and counts of one scene or of some of its view pairs; adding merges them."""

    matched_sum: float = 0.0
    """Cosines of cells of one voxel, seen from two views."""
    matched_pairs: int = 0
    group_sum: float = 0.0
    """Mean cosine of each group: of a voxel, or of two neighbouring views."""
    groups: int = 0
    random_sum: float = 0.0
    """Cosines of cells of two voxels, seen from two views."""
    random_pairs: int = 0
    position_sum: float = 0.0
    """Cosines of tokens at one grid position of two views, in two voxels."""
    position_pairs: int = 0

    def __add__(self, other: "PairSums") -> "PairSums":
        return PairSums(
            **{name: getattr(self, name) + getattr(other, name) for name in PairSums.__slots__}
        )

    @property
    def micro(self) -> float | None:
        """Mean cosine over matched pairs; None without one."""
        return _ratio(self.matched_sum, self.matched_pairs)

    @property
    def macro(self) -> float | None:
        """Mean over groups of their mean cosine; None without one."""
        return _ratio(self.group_sum, self.groups)

    @property
    def random(self) -> float | None:
        """Mean cosine over pairs that do not match; None without one."""
        return _ratio(self.random_sum, self.random_pairs)

    @property
    def same_position(self) -> float | None:
        """Mean cosine over pairs at one grid position; None without one."""
        return _ratio(self.position_sum, self.position_pairs)


def above_chance(similarity: float | None, random: float | None) -> float | None:
    """Return (S - R) / (1 - R): 0 at chance, 1 at best, and 0 when every pair is alike."""
    if similarity is None or random is None:
        return None
    return 0.0 if random >= CHANCE_CEILING else (similarity - random) / (1.0 - random)


def matched_and_random(vectors: Float[np.ndarray, "M C"], cells: Cells) -> PairSums:
    """Sum the cosines of all view pairs of shared cells; groups are voxels.

    Random pairs are drawn from the same cells as matched ones, so that both means speak of the
    same places.
    """
    if not len(cells.voxel):
        return PairSums()
    squares = np.vecdot(vectors, vectors).astype(np.float64)
    bounds = np.flatnonzero(np.diff(cells.voxel, prepend=-1, append=-1))
    counts = np.diff(bounds)
    pairs = counts * (counts - 1) // 2
    matched = _pair_sums(vectors, squares, bounds)
    every, num_every = _across_views(vectors, cells.view)
    return PairSums(
        matched_sum=float(matched.sum()),
        matched_pairs=int(pairs.sum()),
        group_sum=float((matched / pairs).sum()),
        groups=len(pairs),
        random_sum=every - float(matched.sum()),
        random_pairs=num_every - int(pairs.sum()),
    )


def same_position(tokens: Tokens, token_voxel: Int[np.ndarray, " N"]) -> PairSums:
    """Sum the cosines of tokens at one grid position of two views, unless they share a voxel."""
    if not len(tokens.unit):
        return PairSums()
    order = np.lexsort((token_voxel, tokens.position))
    unit = tokens.unit.take(order, axis=0)
    squares = np.vecdot(unit, unit).astype(np.float64)
    new_position = np.diff(tokens.position[order], prepend=-1, append=-1) != 0
    new_place = new_position | (np.diff(token_voxel[order], prepend=-1, append=-1) != 0)
    total, count = 0.0, 0
    for bounds, sign in ((np.flatnonzero(new_position), 1), (np.flatnonzero(new_place), -1)):
        sizes = np.diff(bounds)
        total += sign * float(_pair_sums(unit, squares, bounds).sum())
        count += sign * int((sizes * (sizes - 1) // 2).sum())
    return PairSums(position_sum=total if count else 0.0, position_pairs=count)


def _pair_sums(
    vectors: Float[np.ndarray, "M C"],
    squares: Float[np.ndarray, " M"],
    bounds: Int[np.ndarray, " bounds"],
) -> Float[np.ndarray, " spans"]:
    """Return the sum of cosines over the pairs of rows within each span of `bounds`."""
    sums = np.zeros(len(bounds) - 1)
    for span in np.flatnonzero(np.diff(bounds) > 1):
        rows = slice(bounds[span], bounds[span + 1])
        total = vectors[rows].sum(axis=0, dtype=np.float64)
        sums[span] = (total @ total - squares[rows].sum()) / 2.0
    return sums


def _across_views(
    vectors: Float[np.ndarray, "M C"], view: Int[np.ndarray, " M"]
) -> tuple[float, int]:
    """Return sum and number of the pairs of rows from two views."""
    order = np.argsort(view, kind="stable")
    bounds = np.flatnonzero(np.diff(view[order], prepend=-1, append=-1))
    rows = [order[start:stop] for start, stop in pairwise(bounds)]
    per_view = np.stack([vectors.take(some, axis=0).sum(axis=0, dtype=np.float64) for some in rows])
    total = per_view.sum(axis=0)
    count = (len(view) ** 2 - int((np.diff(bounds) ** 2).sum())) // 2
    return float(total @ total - np.vecdot(per_view, per_view).sum()) / 2.0, count


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None
