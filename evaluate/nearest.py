"""The most similar token of another view: how often it is the same point, and what chance would be.

Letters: N tokens of all views, C channels, D components.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int16

from vega3d.evaluate.cells import Tokens
from vega3d.evaluate.config import ScoreConfig
from vega3d.evaluate.matching import RECALL_COUNTS, ViewPairs, match

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

    right: Mapping[str, float | None]
    """By kind of features, the share of these for which the most similar one lies within reach;
    None where none is asked, here and below."""

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


def found(units: Mapping[str, Float[np.ndarray, "N C"]], tokens: Tokens, reach_m: float) -> Found:
    """Ask for every token, in every other view, whether the most similar token is the same point.

    Args:
        units: By kind of features: what each token is compared by.
        tokens: Where they are.
        reach_m: Tokens that lie so close are the same point.
    """
    seeing = np.unique(tokens.view)
    first, second = (seeing[side] for side in np.triu_indices(len(seeing), 1))
    pairs = ViewPairs(first, second, np.full(len(first), np.nan), len(first))
    _, counted = match(units, tokens, pairs, ScoreConfig(recall_m=(reach_m,)))
    counts = {
        name: dict(zip(RECALL_COUNTS, recall.overall[0], strict=True))
        for name, recall in counted.items()
    }
    asked = int(next(iter(counts.values()))["possible"])

    def share(count: float) -> float | None:
        return float(count / asked) if asked else None

    return Found(
        asked=asked,
        right={name: share(count["nearest"]) for name, count in counts.items()},
        chance=share(next(iter(counts.values()))["chance"]),
        same_place=share(_at_the_same_place(tokens, reach_m)),
    )


def _at_the_same_place(tokens: Tokens, reach_m: float) -> int:
    """Count the tokens whose place in another view's grid holds the same point, each way."""
    count = 0
    for position in np.unique(tokens.position):
        xyz = tokens.xyz[tokens.position == position]
        apart = np.linalg.norm(xyz[:, None] - xyz, axis=-1)
        count += int((apart <= reach_m).sum()) - len(xyz)
    return count


def random_mean(unit: Float[np.ndarray, "N C"], tokens: Tokens) -> float:
    """Return the mean cosine of any two tokens of two views; 0 where there is one view."""
    wide = unit.astype(np.float64)
    sums = np.zeros((tokens.num_views, wide.shape[1]))
    np.add.at(sums, tokens.view, wide)
    counts = np.bincount(tokens.view, minlength=tokens.num_views)
    pairs = counts.sum() ** 2 - (counts**2).sum()
    total: Float64[np.ndarray, " C"] = sums.sum(axis=0)
    return float((total @ total - (sums * sums).sum()) / pairs) if pairs else 0.0
