"""What tokens tell of where they are and what they look like, and where what a text names is.

Answers are too few to teach a reader which tokens `the sofa` means, so three things are learned
beside them, with weights that no answer moves. A token's place is told from the token, and compared
with where it is. Its look is told, and compared with its own semantic feature. A name's look is
told from the name's vector, and compared with what a scene that is asked of it looks like more than
others do: over rooms with and without a sofa, that is the sofa. So names take rooms, and not
answers, to learn: 90 procedural ones are too few, 360 are enough. Places and looks are as good as
the tokens: semantic ones tell no place, and without depth none is learned. Looks are compared with
the semantic stream whatever the variant: `generative` is taught by it, and told nothing.

Letters: B samples, V views, N tokens of a view, M = V N tokens of a sample, D channels, C channels
of a semantic token, L numbers of a look, E numbers of a text's vector, Q questions, P phrases,
T things that are looked for.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from vega3d.train.tasks.relations import place_errors
from vega3d.train.tasks.task import Targets, mlp_head

_LOOKS = 64
_SHARPNESS = 15.0  # of a softmax over cosines of looks
_CROWDING = 15.0  # of a kernel over them
_GOLDEN = (5**0.5 - 1) / 2
_COMPARED = 512  # tokens of a sample, at most, that all are compared with
_USUAL_WEIGHT = 10.0
_SEED = 5
_NEVER = -1e4
_TINY = 1e-4  # m^2


class Told(NamedTuple):
    """What the tokens of some samples tell."""

    looks: Float[Tensor, "B M L"]
    """Of length 1."""

    places: Float[Tensor, "B M 3"]
    """Metres from the scene's middle."""


class Found(NamedTuple):
    """Where things are said to be."""

    place: Float[Tensor, "*batch 3"]
    """Middle of their tokens, metres."""

    variance: Float[Tensor, "*batch 3"]
    """Of their tokens' places along the axes, m^2."""

    across: Float[Tensor, "*batch"]
    """Covariance of the first two, m^2."""


class Telling(nn.Module):
    """Places and looks of tokens, looks of names, and the search of the one for the other."""

    def __init__(self, dim: int, text_dim: int) -> None:
        """Build it."""
        super().__init__()
        self.place = nn.Sequential(nn.LayerNorm(dim), mlp_head(dim, dim, 3))
        self.look = nn.Linear(dim, _LOOKS)
        self.name = nn.Linear(text_dim, _LOOKS, bias=False)
        self.usual = nn.Parameter(torch.zeros(_LOOKS))

    def forward(self, tokens: Float[Tensor, "B M D"], valid: Bool[Tensor, "B M"]) -> Told:
        """Return what tokens tell."""
        places, mask = self.place(tokens).float(), valid[..., None]
        count = mask.sum(dim=1, keepdim=True).clamp(min=1)
        middle = torch.where(mask, places, 0.0).sum(dim=1, keepdim=True) / count
        return Told(normalize(self.look(tokens).float(), dim=-1), places - middle)

    def errors(
        self, told: Told, phrases: Float[Tensor, "B Q P E"], targets: Targets
    ) -> Float[Tensor, " B"]:
        """Return how wrong places (metres), looks and the looks of names are (1 - cosine)."""
        valid = targets["valid"]
        looks = 1 - (told.looks * targets["looks"]).sum(dim=-1)
        looked = torch.where(valid, looks, 0.0).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
        spoken = targets["spoken"]
        more = normalize(spoken - self.usual.detach(), dim=-1)
        names = normalize(self.name(phrases).float(), dim=-1)
        there = phrases.any(dim=-1)
        apart = torch.where(there, 1 - (names * more[:, None, None]).sum(dim=-1), 0.0)
        named = apart.sum(dim=(1, 2)) / there.sum(dim=(1, 2)).clamp(min=1)
        usual = _USUAL_WEIGHT * (spoken - self.usual).square().sum(dim=-1)
        places = place_errors(told.places, targets["xyz"], targets["has_depth"] & valid)
        return places + looked + named + usual

    @torch.no_grad()
    def find(
        self, told: Told, names: Float[Tensor, "B T E"], valid: Bool[Tensor, "B M"]
    ) -> Float[Tensor, "B T 7"]:
        """Return moments of the places of the tokens that look like a name, for `found`.

        A look weighs the same however many tokens have it. No gradient: which tokens a name means,
        and where they are, is learned from `errors` alone.
        """
        looks, places = told.looks, told.places
        wanted = normalize(linear(names, self.name.weight).float(), dim=-1)
        alike = wanted @ looks.transpose(1, 2) * _SHARPNESS - _crowd(looks, valid).log()[:, None]
        share = alike.masked_fill(~valid[:, None], _NEVER).softmax(dim=-1)
        x, y, _ = places.unbind(dim=-1)
        moments = torch.cat([places, places.square(), (x * y)[..., None]], dim=-1)
        return share @ moments


def found(moments: Float[Tensor, "*batch 7"]) -> Found:
    """Return middles and spreads of x, y, z, their squares and the product of x and y."""
    middle = moments[..., :3]
    variance = (moments[..., 3:6] - middle.square()).clamp(min=0) + _TINY
    return Found(middle, variance, moments[..., 6] - middle[..., 0] * middle[..., 1])


def seen_looks(sem: Float[Tensor, "B V N C"]) -> Float[Tensor, "B M L"]:
    """Return semantic tokens in L numbers of length 1; their cosines stay about what they were.

    Source: Johnson and Lindenstrauss 1984; one matrix for all runs.
    """
    draw = torch.Generator().manual_seed(_SEED)
    matrix = torch.randn(sem.shape[-1], _LOOKS, generator=draw).to(sem.device)
    return normalize(sem.flatten(1, 2).float() @ matrix, dim=-1)


def spoken_look(looks: Float[Tensor, "B M L"], valid: Bool[Tensor, "B M"]) -> Float[Tensor, "B L"]:
    """Return the mean look of a scene, in which a lamp weighs as much as a floor."""
    weight = torch.where(valid, 1 / _crowd(looks, valid), 0.0)[..., None]
    return (looks * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-6)


def _crowd(looks: Float[Tensor, "B M L"], valid: Bool[Tensor, "B M"]) -> Float[Tensor, "B M"]:
    """Return about how many tokens look like each, itself among them."""
    count = looks.shape[1]
    compared = min(_COMPARED, count)
    some = torch.arange(compared, device=looks.device)
    if count > compared:  # a stride would meet the same columns of every view
        some = (some * _GOLDEN % 1 * count).long()
    near = ((looks @ looks[:, some].transpose(1, 2) - 1) * _CROWDING).exp()
    near = torch.where(valid[:, some][:, None], near, 0.0)
    return 1 + near.sum(dim=-1) * (count / compared)
