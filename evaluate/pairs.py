"""Sums of cosines over pairs of cells, in time linear in the number of cells.

For unit vectors h_1..h_n the sum over pairs is (|sum h|^2 - n) / 2, so no pair is ever visited.
A vector without direction (zero) is not among the n: its pairs count as cosine 0. Vectors are
brought to length one in float64 again as they are summed, and all sums are float64: a unit vector
in float32 is 1e-8 too long or too short, the identity squares that, and for features that hardly
vary 1 - R is as small, so that above chance would be rounding error. Letters as in cells.py.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vega3d.evaluate import fused
from vega3d.evaluate.cells import Cells, Tokens, no_direction

CHANCE_CEILING = 1.0 - 1e-9
"""From this random-pair mean on, features are one constant and above-chance is 0 by definition."""

_BLOCK_ROWS = 128
"""Rows taken to float64 at a time, so that they stay in the cache."""


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


def matched_and_random(tokens: Tokens, cells: Cells) -> PairSums:
    """Sum the cosines of all view pairs of shared cells; groups are voxels.

    Random pairs are drawn from the same cells as matched ones, so that both means speak of the
    same places.
    """
    if not len(cells.voxel):
        tokens.check_halves()
        return PairSums()
    bounds = np.flatnonzero(np.diff(cells.voxel, prepend=-1, append=-1))
    of_views = np.zeros((tokens.num_views, tokens.values.shape[1]))
    values, cell = fused.readable(tokens.values), np.full(len(tokens.view), -1)
    cell[cells.order] = np.repeat(np.arange(len(cells.view)), np.diff(cells.starts))
    inverse = fused.view_sums(values, tokens.places, cell, cells.starts, cells.view, of_views)
    if np.isnan(inverse).any():
        tokens.check_halves()
    matched = fused.voxel_sums(
        values,
        tokens.places[cells.order],
        inverse[cells.order],
        cells.starts,
        cells.view,
        bounds,
        no_direction(tokens.values.dtype),
        of_views,
    )
    every, within = of_views.sum(axis=0), float(np.vecdot(of_views, of_views).sum())
    pairs = np.diff(bounds) * (np.diff(bounds) - 1) // 2
    num_every = (len(cells.view) ** 2 - int((np.bincount(cells.view) ** 2).sum())) // 2
    return PairSums(
        matched_sum=float(matched.sum()),
        matched_pairs=int(pairs.sum()),
        group_sum=float((matched / pairs).sum()),
        groups=len(pairs),
        random_sum=(float(every @ every) - within) / 2.0 - float(matched.sum()),
        random_pairs=num_every - int(pairs.sum()),
    )


def same_position(tokens: Tokens, token_voxel: Int[np.ndarray, " N"]) -> PairSums:
    """Sum the cosines of tokens at one grid position of two views, unless they share a voxel."""
    if not len(tokens.view):
        return PairSums()
    order = np.lexsort((token_voxel, tokens.position))
    voxel, position = token_voxel[order], tokens.position[order]
    moved = (np.diff(voxel, prepend=-1) != 0) | (np.diff(position, prepend=-1) != 0)
    places = np.append(np.flatnonzero(moved), len(order))
    new = np.flatnonzero(np.diff(position[places[:-1]], prepend=-1))
    groups = np.append(new, len(places) - 1)
    sizes = np.diff(places)
    apart = np.add.reduceat(sizes, new) ** 2 - np.add.reduceat(sizes**2, new)
    values = fused.readable(tokens.values)
    total = fused.apart_sum(values, tokens.places[order], places, groups)
    count = int(apart.sum()) // 2
    return PairSums(position_sum=total, position_pairs=count)


def mean_cosine(first: Float[np.ndarray, "N C"], second: Float[np.ndarray, "N C"]) -> float | None:
    """Return the mean cosine of each row with its partner; None without rows."""
    total = 0.0
    for start in range(0, len(first), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        total += float(np.vecdot(_exact_units(first[rows]), _exact_units(second[rows])).sum())
    return _ratio(total, len(first))


def _exact_units(vectors: Float[np.ndarray, "M C"]) -> Float[np.ndarray, "M C"]:
    """Return rows of length one in float64; a row of zeros stays so."""
    rows = vectors.astype(np.float64)
    rows *= _inverse_norms(rows)[:, None]
    return rows


def _inverse_norms(rows: Float[np.ndarray, "M C"]) -> Float[np.ndarray, " M"]:
    """Return one over each row's length, and 0 where it has none."""
    norms = np.sqrt(np.vecdot(rows, rows))
    inverse: np.ndarray = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return inverse


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None
