"""Every scene is read by probes that were fitted on other scenes.

Letters: N tokens (or pairs of views), C channels, P grid positions, D numbers asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from vega3d.evaluate.probes.config import ProbeConfig
from vega3d.evaluate.probes.readout import (
    Ridge,
    Standard,
    Sums,
    believed,
    fit_mlp,
    fit_ridge,
    frequency_of,
    sums_of,
    total,
)

POSITION_STRENGTH = 1e-2
"""Of the ridge that sees the grid position alone: it has no channel that could mislead it."""

LEAST_COMPONENT = 1e-3
"""Of the first component's size: what is smaller is rounding, as where few cells span less than
what is asked for, and standardising it would scale it up."""

MOMENTS = 4
"""Of an MLP's fit, evenly spread over its steps: one of them is believed."""

MOST_UNCHOSEN = 2
"""Folds with which none is left to choose on: one is fitted, one scored."""

Readings = Mapping[str, Float64[Tensor, "N D"]]
"""By reader: `ridge` sees the features, `position` where a token lies in the grid, `both` both,
`blind` nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Inputs, and the fold that each token is scored in."""

    x: Float[Tensor, "N C"]
    fold: Int[Tensor, " N"]
    position: Int[Tensor, " N"] | None = None
    """row * w + column; None where position means nothing, as for pairs of views."""
    num_positions: int = 0
    scored: int | None = None
    """The one fold that is scored, where the inputs were made for it; None scores all."""

    def where(self, kept: Tensor) -> "Asked":
        """Return some of the tokens."""
        position = None if self.position is None else self.position[kept]
        return replace(self, x=self.x[kept], fold=self.fold[kept], position=position)

    def folds(self) -> tuple[list[int], list[int]]:
        """Return all folds, and those that are scored."""
        every = sorted(set(self.fold.tolist()))
        return every, [f for f in every if self.scored in (None, f)]


def split_scenes(num_scenes: int, folds: int, seed: int) -> Int[np.ndarray, " S"]:
    """Return the fold of each scene; folds are as even as can be, drawn by the seed."""
    order = np.random.default_rng(seed).permutation(num_scenes)
    fold = np.empty(num_scenes, dtype=np.int64)
    fold[order] = np.arange(num_scenes) % min(folds, num_scenes)
    return fold


def read_linearly(
    asked: Asked,
    y: Float64[Tensor, "N D"],
    questions: Sequence[slice],
    strengths: Sequence[float],
) -> Readings:
    """Read each token by ridges fitted on the other folds; NaN in a fold that is not scored.

    Args:
        asked: What to read from.
        y: The right answers.
        questions: Columns of the answers that belong together: they share a strength.
        strengths: To choose from, on one of the folds that are fitted.
    """
    channels, everything = asked.x.shape[1], asked.x.shape[1] + asked.num_positions
    seen = {"ridge": slice(0, channels)}
    if asked.position is not None:
        seen |= {"both": slice(0, everything), "position": slice(channels, everything)}
    every, scored = asked.folds()
    parts = {f: _fold_sums(asked, y, f) for f in every}
    found = {kind: torch.full(y.shape, torch.nan, dtype=y.dtype) for kind in (*seen, "blind")}
    for fold in scored:
        others = [f for f in every if f != fold]
        known = total([parts[f] for f in others])
        inner = every[(every.index(fold) + 1) % len(every)]
        picked = _choose(parts, others, inner, seen["ridge"], questions, strengths)
        rows = asked.fold == fold
        inputs = _inputs(asked, rows)
        found["blind"][rows] = known.y / known.count
        for columns, strength in zip(questions, picked, strict=True):
            for kind, inside in seen.items():
                lam = POSITION_STRENGTH if kind == "position" else strength
                said = fit_ridge(known.of(inside, columns), lam)(inputs[:, inside])
                found[kind][rows.nonzero(), torch.arange(y.shape[1])[columns]] = said
    return found


def read_by_mlp(
    asked: Asked,
    y: Float[Tensor, "N D"],
    label: Int[Tensor, " N"] | None,
    classes: int,
    questions: Sequence[slice],
    config: ProbeConfig,
) -> Float[Tensor, "N D_classes"]:
    """Read each token by small MLPs fitted on the other folds: the answers, then logits of classes.

    How far a fit is believed is chosen on one of the folds that are fitted, which the fit does not
    see, for each question: which of a few moments of it, and how much of its distance from the
    mean. Of features that tell nothing that is the mean itself. With two folds there is none to
    choose on, and the end of the fit is taken as it is.

    Args:
        asked: What to read from.
        y: The right answers; NaN is not fitted, and read all the same.
        label: Class, -1 for none; None where no class is asked for.
        classes: How many there are.
        questions: Columns of the answers that belong together.
        config: Width, steps and seed.
    """
    found = torch.full((len(y), y.shape[1] + classes), torch.nan)
    every, scored = asked.folds()
    for fold in scored:
        inner = every[(every.index(fold) + 1) % len(every)] if len(every) > MOST_UNCHOSEN else None
        known = asked.fold != fold
        if inner is not None:
            known &= asked.fold != inner
        rows = asked.fold == fold
        judge = torch.zeros_like(rows) if inner is None else asked.fold == inner
        wanted = y[known].float()
        middle = wanted.nanmean(0)
        spread = (wanted - middle).square().nanmean(0).sqrt().clamp(min=1e-6)
        told = None if label is None else label[known]
        asked_of = asked.x[rows], asked.x[judge]
        moments = _fitted(
            asked.x[known], (wanted - middle) / spread, told, classes, asked_of, config
        )
        chosen = moments[-1][0]
        if inner is not None:
            right = ((y[judge].float() - middle) / spread), None if label is None else label[judge]
            chosen = believed(moments, right, questions, frequency_of(told, classes))
        base = y[~rows].float().nanmean(0)  # the mean of all that is known, judged ones too
        numbers = chosen[:, : y.shape[1]] * spread + base
        found[rows] = torch.cat([numbers, chosen[:, y.shape[1] :]], dim=1)
    return found


def _fitted(
    x: Float[Tensor, "K C"],
    wanted: Float[Tensor, "K D"],
    label: Int[Tensor, " K"] | None,
    classes: int,
    asked_of: Sequence[Float[Tensor, "M C"]],
    config: ProbeConfig,
) -> list[list[Tensor]]:
    """Fit an MLP; return what it says of some tokens at a few moments, the last one the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        probe = nn.Sequential(
            Standard(x),
            nn.Linear(x.shape[1], config.mlp_hidden),
            nn.GELU(),
            nn.Linear(config.mlp_hidden, wanted.shape[1] + classes),
        )
        moments: list[list[Tensor]] = []

        def note() -> None:
            with torch.no_grad():
                moments.append([probe(part) for part in asked_of])

        fit_mlp(probe, x, wanted, label, config.mlp_steps, MOMENTS, note)
    return moments


def principal(
    cells: Float[Tensor, "M C"], known: Float[Tensor, "K C"], components: int
) -> Float[Tensor, "M k"]:
    """Return the leading components of some cells, standardised and turned as the known ones say.

    Source: Halko, Martinsson and Tropp, SIAM Review 2011 (torch.svd_lowrank), with a fixed seed.
    """
    standard = Standard(known)
    held = standard(known)
    num = min(components, *held.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, sizes, vectors = torch.svd_lowrank(held, q=min(num + 8, *held.shape), niter=4)
    there = sizes[:num] > LEAST_COMPONENT * sizes[0]
    there[0] = True  # of a constant, too
    found: Tensor = standard(cells) @ vectors[:, :num][:, there]
    return found


def _fold_sums(asked: Asked, y: Float64[Tensor, "N D"], fold: int) -> Sums:
    rows = asked.fold == fold
    return sums_of(_inputs(asked, rows), y[rows])


def _inputs(asked: Asked, rows: Tensor) -> Float[Tensor, "n C_P"]:
    """Return features, and beside them the position as one of P."""
    if asked.position is None:
        return asked.x[rows]
    seen = nn.functional.one_hot(asked.position[rows], asked.num_positions)
    return torch.cat([asked.x[rows], seen.to(asked.x.dtype)], dim=1)


def _choose(
    parts: Mapping[int, Sums],
    others: Sequence[int],
    inner: int,
    features: slice,
    questions: Sequence[slice],
    strengths: Sequence[float],
) -> list[float]:
    """Return each question's strength: the best on one fold, fitted on the rest of the others."""
    rest = [parts[f] for f in others if f != inner]
    if not rest or len(strengths) == 1:
        return [strengths[len(strengths) // 2]] * len(questions)
    known, judge = total(rest), parts[inner]
    every = slice(0, len(known.y))
    fits: list[Ridge] = [fit_ridge(known.of(features, every), s) for s in strengths]
    errors = torch.stack([fit.squared_error(judge.of(features, every)) for fit in fits])
    return [strengths[int(errors[:, columns].sum(1).argmin())] for columns in questions]
