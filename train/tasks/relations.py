"""How candidates lie to one another, told from their fused tokens: `the chair closest to the door`.

A description has an anchor (the door) and says what is wanted of the way from it (closest). The
anchor is a softmax over the candidates; the way is the difference of two places, each told from a
candidate's own tokens. Nothing here is given a box: in training the boxes' middles are what told
places are compared with, up to where the scene's own middle is, and afterwards the tokens alone
must know. Tokens that know no place, such as semantic ones, therefore tell no relation.

All that is read from a text is linear in its vector: what a word means beside words that it never
stood beside in training is then the sum of both (with two layers more, rooms by the hundred did not
teach what `closest` means).

Letters: B samples, Q descriptions, O candidates, D channels, E numbers of a text's vector, K kinds
of relation.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from vega3d.train.tasks.task import mlp_head

_KINDS = 16
_WIDTH = 32
_SHARPNESS = 10.0  # of the first anchors: cosines lie in -1..1
_NEVER = -1e4
_TINY = 1e-4  # m^2: the root of 0 has no gradient


class Relations(nn.Module):
    """What each candidate's way from the anchor adds to its score."""

    def __init__(self, dim: int, text_dim: int) -> None:
        """Build it; before the first step no relation counts."""
        super().__init__()
        self.place = nn.Sequential(nn.LayerNorm(dim), mlp_head(dim, dim, 3))
        self.anchor = nn.Linear(text_dim, dim)
        self.sharpness = nn.Parameter(torch.tensor(_SHARPNESS).log())
        self.way = mlp_head(5, _WIDTH, _KINDS)
        self.wanted = nn.Linear(text_dim, _KINDS)
        nn.init.zeros_(self.wanted.weight)
        nn.init.zeros_(self.wanted.bias)

    def forward(
        self,
        text: Float[Tensor, "B Q E"],
        objects: Float[Tensor, "B O D"],
        keys: Float[Tensor, "B O D"],
        there: Bool[Tensor, "B O"],
    ) -> tuple[Float[Tensor, "B Q O"], Float[Tensor, "B O 3"]]:
        """Return what to add to the scores, and where each candidate is said to be, metres.

        Args:
            text: What is asked.
            objects: The candidates.
            keys: What they are matched with descriptions by, of length 1.
            there: False for what pads.
        """
        places = self.place(objects).float()
        likely = normalize(self.anchor(text).float(), dim=-1) @ keys.float().transpose(1, 2)
        likely = (likely * self.sharpness.exp()).masked_fill(~there[:, None], _NEVER)
        kinds, wanted = self.way(_ways(places)).float(), self.wanted(text).float()
        added = torch.einsum("bijk,bqj,bqk->bqi", kinds, likely.softmax(dim=-1), wanted)
        return added, places


def place_errors(
    places: Float[Tensor, "B O 3"], boxes: Float[Tensor, "B O C"], known: Bool[Tensor, "B O"]
) -> Float[Tensor, " B"]:
    """Return how far told places are from true ones, metres a coordinate.

    Both are taken from their mean over the scene, so that where a scene's origin lies is not asked.

    Args:
        places: What the tokens tell.
        boxes: The true ones, alone or with sizes; NaN pads.
        known: Candidates that have tokens; the others do not count.
    """
    mask = known[..., None]
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    told, true = (torch.where(mask, values, 0.0) for values in (places, boxes[..., :3]))
    apart = (told - told.sum(1, keepdim=True) / count) - (true - true.sum(1, keepdim=True) / count)
    return torch.where(mask, apart.abs(), 0.0).sum(dim=(1, 2)) / (3 * count[:, 0, 0])


def _ways(places: Float[Tensor, "B O 3"]) -> Float[Tensor, "B O O 5"]:
    """Return the way from each candidate to each other: its three parts, its length, and flat."""
    apart = places[:, :, None] - places[:, None]
    squares = apart.square()
    lengths = [squares[..., :axes].sum(dim=-1, keepdim=True) for axes in (3, 2)]
    return torch.cat([apart, *((length + _TINY).sqrt() for length in lengths)], dim=-1)
