"""A small MLP that is believed as far as it proves right on scenes that it was not fitted on.

Two streams side by side have twice the channels, and a probe that learns its scenes by heart reads
them worse than one of them alone. So every stream is read by two fits, one as it is and one whose
hidden units are dropped at random, and for each question the one is taken, and that share of its
distance from the mean, which does best on some of the fitted scenes that are kept back.
Letters: S scenes, R of them read, D numbers asked for, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vega3d.evaluate.probes.readout import BATCH, believed, fit_mlp, frequency_of
from vega3d.train.pretrain.config import TableConfig

HIDDEN = 192
DROPPED = (0.0, 0.5)
"""Share of the hidden units that each of the fits drops at random in every step. On rooms of seed
102 the first read classes and normals better, the second depth."""

_JUDGES = 6
"""Every sixth of the fitted scenes is kept back: the last ones."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Right answers of all scenes, in any layout behind the scenes' axis."""

    numbers: Tensor
    """[S, ..., D], of about unit spread."""

    questions: Sequence[slice]
    """Columns of the numbers that belong together."""

    label: Tensor | None = None
    """[S, ...], class of every token; None asks for none."""

    counts: Tensor | None = None
    """[S, ...], tokens whose class is asked for when scenes are scored; of a fit all are."""

    classes: int = 0


def read(x: Tensor, wanted: Wanted, config: TableConfig, seed: int) -> Tensor:
    """Return what is read of the scenes behind the fitted ones: numbers, then a class's logits.

    Args:
        x: What a probe sees, [S, ..., C].
        wanted: Right answers; those of the scenes that are read are not looked at.
        config: How many scenes are fitted, and in how many passes.
        seed: Of weights and order.

    Returns:
        [R, ..., D + classes].
    """
    fitted = config.fitted
    judges = max(1, fitted // _JUDGES) if fitted > 1 else 0
    known, judge, asked = slice(0, fitted - judges), slice(fitted - judges, fitted), x[fitted:]
    width = wanted.numbers.shape[-1]
    middle = wanted.numbers[:fitted].flatten(0, -2).mean(0)
    answers = wanted.numbers[:fitted] - middle
    tokens = x[known].flatten(0, -2)
    label = None if wanted.label is None else wanted.label[known].flatten()
    steps = max(1, config.epochs * len(tokens) // BATCH)
    fits = []
    for dropped in DROPPED if judges else DROPPED[:1]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            probe = _probe(x.shape[-1], width + wanted.classes, dropped)
            fit_mlp(probe, tokens, answers[known].flatten(0, -2), label, steps)
        probe.eval()
        with torch.no_grad():
            fits.append([probe(part.flatten(0, -2)) for part in (asked, x[judge])])
    said = fits[0][0]
    if judges:
        right = answers[judge].flatten(0, -2), _judged(wanted, judge)
        said = believed(fits, right, wanted.questions, frequency_of(label, wanted.classes))
    found = torch.cat([said[:, :width] + middle, said[:, width:]], 1)
    return found.reshape(*asked.shape[:-1], -1)


def _probe(channels: int, width: int, dropped: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(channels, HIDDEN), nn.GELU(), nn.Dropout(dropped), nn.Linear(HIDDEN, width)
    )


def _judged(wanted: Wanted, judge: slice) -> Tensor | None:
    """Return the classes that a fit is judged by, -1 for those that are not asked for."""
    if wanted.label is None:
        return None
    label = wanted.label[judge]
    if wanted.counts is not None:
        label = label.where(wanted.counts[judge], -1)
    return label.flatten()
