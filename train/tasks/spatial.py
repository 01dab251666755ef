"""Answers that hang on where things are, such as whether the lamp is left of who faces the desk.

A question names things, phrase by phrase; `Telling` says where each is. What part a phrase plays,
who stands, who is faced, from what is measured, is a softmax over the phrases whose weights are
linear in the question's vector. From the parts' places come differences, lengths, gaps, and the
turn from one way to another seen from above; what of these is asked is again linear in the
question's vector, and for words such as `left` what they say is linear in theirs.

The world's third axis points up. Letters: B samples, Q questions, P phrases, T things that may be
the answer, A answers, E numbers of a text's vector, R readings of a question, 4 parts of each, K
kinds of relation.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from vega3d.train.batch import Batch
from vega3d.train.phrases import MOST
from vega3d.train.tasks.asking import AskingTask
from vega3d.train.tasks.task import Targets, mlp_head
from vega3d.train.tasks.telling import Found, Telling, found, seen_looks, spoken_look

_LOUD = 4.0  # a text's vector has length 1, and one word in a dozen is a small part of it
_READINGS = 4
_FROM, _TO, _STAND, _MEANT = range(4)
"""Parts: someone looks from the first to the second, and from the third lies the fourth. Distances
are from the first, sizes are of the first."""
_KINDS = 16
_WIDTH = 32
_PAIR, _SIZE, _TURN = 9, 4, 4
_NEVER = -1e4
_TINY = 1e-4
_NEAR_M2 = 0.1  # of ways this short the direction says little
_GAP_M = 0.1
_LIKENESS = 4  # power of a cosine of two texts
_EDGES = 1.5  # deviations from the middle of a thing to its edge, about
_GAIN, _NUMBER_GAIN = 0.2, 0.3  # cosines, and logarithms, of what the first steps may do


class Read(NamedTuple):
    """What places say of the answers."""

    added: Float[Tensor, "B Q A"]
    """To add to the answers' cosines."""

    number: Float[Tensor, "B Q"] | None
    """To add to the logarithm of a number."""

    errors: Float[Tensor, " B"]
    """Of what the tokens tell, a loss for every question."""


class SpatialTask(AskingTask):
    """A task whose answers hang on places too: what the reader needs beside the questions."""

    reads_phrases = True
    reads_looks = True

    def targets(self, batch: Batch) -> Targets:
        """Return the questions, where the tokens are, and what they look like."""
        targets = super().targets(batch)
        looks = seen_looks(batch.sem)
        return {**targets, "looks": looks, "spoken": spoken_look(looks, targets["valid"])}


class SpatialReader(nn.Module):
    """What places add to the scores of answers, and to numbers."""

    def __init__(self, dim: int, text_dim: int, *, numbers: bool) -> None:
        """Build it; before the first step only turns count, a little."""
        super().__init__()
        self.telling = Telling(dim, text_dim)
        self.part = nn.Linear(text_dim, _READINGS * 4 * MOST)
        nn.init.normal_(self.part.bias)  # else all parts are the same, and no way leads out
        self.near = _Asked(_PAIR, _PAIR, text_dim)
        self.turn = _Asked(2, _TURN, text_dim)
        self.said = nn.Linear(text_dim, 2 + _KINDS)
        self.number = _Asked(_PAIR + 2 * _SIZE, _PAIR + 2 * _SIZE, text_dim) if numbers else None
        with torch.no_grad():
            self.turn.wanted.bias.view(_READINGS, -1)[:, :2] = _READINGS**-0.5

    def forward(
        self,
        tokens: Float[Tensor, "B V N D"],
        targets: Targets,
        answers: Float[Tensor, "B Q A E"] | Float[Tensor, "A E"],
    ) -> Read:
        """Return what places say.

        Args:
            tokens: Fused.
            targets: As `AskingTask.targets` gives them, with `looks` and `spoken`.
            answers: What each question offers, or a bank that all share. What is offered is looked
                for itself; of a bank, answers that are like a phrase of the question.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            return self._read(tokens.flatten(1, 2).float(), targets, answers)

    def _read(self, tokens: Tensor, targets: Targets, answers: Tensor) -> Read:
        text, valid = targets["text"], targets["valid"]
        phrases = targets.get("phrases", text[:, :, None])
        told = self.telling(tokens, valid)
        bank = answers.ndim == 2
        names = phrases if bank else torch.cat([phrases, answers], dim=2)
        moments = self.telling.find(told, names.flatten(1, 2), valid)
        moments = moments.reshape(*names.shape[:3], moments.shape[-1])
        named, offered = moments[:, :, : phrases.shape[2]], moments[:, :, phrases.shape[2] :]
        loud = _LOUD * text
        parts = found(self._shares(loud, phrases) @ named[:, :, None])
        of_first = Found(*(each[:, :, :, _FROM, None] for each in parts))
        things = found((named if bank else offered)[:, :, None])
        near = self.near(ways(things, of_first), loud).sum(dim=-1)
        turned, turn = self.turn(turns(parts.place), loud), self.said(_LOUD * answers)
        if bank:
            alike = (phrases @ answers.T).clamp(min=0).pow(_LIKENESS)
            added = (near[:, :, None] @ alike)[:, :, 0] + turned @ turn.T
        else:
            added = near + (turned[:, :, None] * turn).sum(dim=-1)
        number = None
        if self.number is not None:
            number = _NUMBER_GAIN * self.number(_measures(parts), loud).sum(dim=-1)
            number = number * phrases.any(dim=-1).any(dim=-1)  # `How many chair(s)` names no part
        return Read(_GAIN * added, number, self.telling.errors(told, phrases, targets))

    def _shares(self, loud: Tensor, phrases: Tensor) -> Float[Tensor, "B Q R 4 P"]:
        """Return how much each phrase plays each part."""
        there = phrases.any(dim=-1)
        weights = self.part(loud).unflatten(-1, (_READINGS, 4, MOST))[..., : phrases.shape[2]]
        open_to = weights.masked_fill(~there[:, :, None, None], _NEVER)
        return open_to.softmax(dim=-1)  # type: ignore[no-any-return]


class _Asked(nn.Module):
    """Kinds of relation, and some numbers as they are, each as much as the question wants it."""

    def __init__(self, plain: int, features: int, text_dim: int) -> None:
        super().__init__()
        self.plain = plain
        self.kinds = mlp_head(features, _WIDTH, _KINDS)
        self.wanted = nn.Linear(text_dim, _READINGS * (plain + _KINDS))
        nn.init.zeros_(self.wanted.weight)
        nn.init.zeros_(self.wanted.bias)

    def forward(
        self, features: Float[Tensor, "B Q R *T F"], text: Float[Tensor, "B Q E"]
    ) -> Float[Tensor, "B Q *T K"]:
        seen = torch.cat([features[..., : self.plain], self.kinds(features)], dim=-1)
        wanted = self.wanted(text).unflatten(-1, (_READINGS, -1))
        return torch.einsum("bqr...k,bqrk->bq...k", seen, wanted)


def ways(a: Found, b: Found) -> Float[Tensor, "*batch 9"]:
    """Return the way between two things, its length, flat length, gap, and their logarithms."""
    apart = a.place - b.place
    edges = _EDGES * (a.variance.sqrt() + b.variance.sqrt())
    between = softplus(apart.abs() - edges, beta=8)
    length, flat, gap = (_length(way) for way in (apart, apart[..., :2], between))
    told = [length, flat, gap, length.log(), flat.log(), (gap + _GAP_M).log()]
    return torch.cat([apart, torch.stack(told, dim=-1)], dim=-1)


def sizes(thing: Found) -> Float[Tensor, "*batch 4"]:
    """Return logarithms of a thing's extents.

    The longer and the shorter as seen from above, the height, and the root of the area.
    """
    x, y, z = thing.variance.unbind(dim=-1)
    half = (x + y) / 2
    root = (((x - y) / 2).square() + thing.across.square() + _TINY**2).sqrt()
    area = (x * y - thing.across.square()).clamp(min=_TINY**2)
    shorter = (half - root).clamp(min=_TINY)
    return torch.stack(
        [(half + root).log() / 2, shorter.log() / 2, z.log() / 2, area.log() / 4], dim=-1
    )


def _measures(parts: Found) -> Float[Tensor, "B Q R 17"]:
    """Return what a number may be told from: the first two parts, how far apart and how large."""
    one, other = (Found(*(each[:, :, :, part] for each in parts)) for part in (_FROM, _TO))
    return torch.cat([ways(one, other), sizes(one), sizes(other)], dim=-1)


def turns(places: Float[Tensor, "B Q R 4 3"]) -> Float[Tensor, "B Q R 4"]:
    """Return how one way turns to the other as seen from above.

    Sine (positive to the left) and cosine of the turn, and the logarithms of both flat lengths.
    """
    flat = places[..., :2]
    ahead = flat[..., _TO, :] - flat[..., _FROM, :]
    way = flat[..., _MEANT, :] - flat[..., _STAND, :]
    lengths = [(each.square().sum(dim=-1) + _NEAR_M2).sqrt() for each in (ahead, way)]
    both = lengths[0] * lengths[1]
    left = (ahead[..., 0] * way[..., 1] - ahead[..., 1] * way[..., 0]) / both
    front = (ahead * way).sum(dim=-1) / both
    return torch.stack([left, front, *(each.log() for each in lengths)], dim=-1)


def _length(way: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch"]:
    return (way.square().sum(dim=-1) + _TINY).sqrt()
