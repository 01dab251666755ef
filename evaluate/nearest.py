"""The most similar token of another view: how often it is the same point, and what chance would be.

Letters: N tokens of all views, C channels, D components.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int16

from vega3d.evaluate.cells import Tokens

_ROWS = 512
"""Tokens that are compared with all others at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coded:
    """Unit tokens as few whole numbers, whose products are their cosines."""

    codes: Int16[np.ndarray, "N D"]
    step: float
    """A cosine is step^2 times the product of two tokens' codes."""

    error: float
    """The most by which such a cosine is wrong, over all pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How often the most similar token of another view is the same point."""

    asked: int
    """Tokens, once for each other view in which some token lies within reach."""

    right: float | None
    """Share of these for which the most similar one lies within reach; None where none is asked."""

    chance: float | None
    """The same share for a token of that view drawn at random."""

    same_place: float | None
    """The same share for the token at the same place of that view's grid: needs no feature."""


def coded(unit: Float[np.ndarray, "N C"], dims: int) -> Coded:
    """Return tokens of length one along their first components, which lie through the origin.

    Args:
        unit: At least one token.
        dims: Components kept at most; all where there are fewer, then rounding alone is lost.
    """
    wide = unit.astype(np.float64)
    if wide.shape[0] <= wide.shape[1]:
        values, vectors = np.linalg.eigh(wide @ wide.T)
        along = vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0.0))
    else:
        along = wide @ np.linalg.eigh(wide.T @ wide)[1][:, ::-1]
    along = along[:, :dims]
    step = max(float(np.abs(along).max()), 1e-12) / np.iinfo(np.int16).max
    codes = np.round(along / step).astype(np.int16)
    kept, error = codes * step, 0.0
    for rows in np.array_split(np.arange(len(wide)), -(-len(wide) // _ROWS)):
        apart = kept[rows] @ kept.T - wide[rows] @ wide.T
        error = max(error, float(np.abs(apart).max()))
    return Coded(codes=codes, step=step, error=error)


def found(unit: Float[np.ndarray, "N C"], tokens: Tokens, reach_m: float) -> Found:
    """Ask for every token, in every other view, whether the most similar token is the same point.

    Args:
        unit: Treated tokens.
        tokens: Where they are.
        reach_m: Tokens that lie so close are the same point.
    """
    asked, right, at_place, chance = 0, 0, 0, 0.0
    for view in range(tokens.num_views):
        of_view = tokens.view == view
        others = ~of_view
        if not of_view.any() or not others.any():
            continue
        apart = np.linalg.norm(tokens.xyz[others, None] - tokens.xyz[of_view], axis=-1)
        within = apart <= reach_m
        seen = within.any(axis=1)
        best = (unit[others] @ unit[of_view].T).argmax(axis=1)
        asked += int(seen.sum())
        right += int(within[np.arange(len(best)), best][seen].sum())
        chance += float(within[seen].mean(axis=1).sum())
        alike = tokens.position[others][:, None] == tokens.position[of_view]
        at_place += int((within & alike).any(axis=1)[seen].sum())
    return Found(
        asked=asked,
        right=right / asked if asked else None,
        chance=chance / asked if asked else None,
        same_place=at_place / asked if asked else None,
    )


def random_mean(unit: Float[np.ndarray, "N C"], tokens: Tokens) -> float:
    """Return the mean cosine of any two tokens of two views; 0 where there is one view."""
    wide = unit.astype(np.float64)
    sums = np.zeros((tokens.num_views, wide.shape[1]))
    np.add.at(sums, tokens.view, wide)
    counts = np.bincount(tokens.view, minlength=tokens.num_views)
    pairs = counts.sum() ** 2 - (counts**2).sum()
    total: Float64[np.ndarray, " C"] = sums.sum(axis=0)
    return float((total @ total - (sums * sums).sum()) / pairs) if pairs else 0.0
