"""Attention over the tokens of one view: positions, cross-attention, and the reader's layers.

Letters: N tokens of a view, row by row; M tokens attended to; D channels.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vega3d.train.randomness import dropout

_TEMPERATURE = 10000.0


def sincos_positions(grid: Sequence[int], dim: int) -> Float[Tensor, "N {dim}"]:
    """Return fixed positions of a grid's tokens: a quarter each of sin and cos of row and column.

    Source: Vaswani et al. 2017, sec. 3.5, one half of the channels for either axis.
    """
    rows, cols = grid
    rate = _TEMPERATURE ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row = torch.arange(rows, dtype=torch.float64).repeat_interleave(cols)[:, None] * rate
    col = torch.arange(cols, dtype=torch.float64).repeat(rows)[:, None] * rate
    return torch.cat([row.sin(), row.cos(), col.sin(), col.cos()], dim=-1).float()


class Attention(nn.Module):
    """Multi-head attention with separate query, key and value inputs."""

    def __init__(self, dim: int, heads: int) -> None:
        """Build it; `heads` must divide `dim`."""
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads must divide the width, got {heads} heads for {dim} channels")
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        query: Float[Tensor, "*batch N D"],
        key: Float[Tensor, "*batch M D"],
        value: Float[Tensor, "*batch M D"],
        valid: Bool[Tensor, "*batch M"] | None,
    ) -> Float[Tensor, "*batch N D"]:
        """Return for every query a mix of the values whose key is valid.

        A view without one valid token attends to all of them, so that its (unused) result is
        finite.
        """
        mask = None
        if valid is not None:
            seen = valid | ~valid.any(dim=-1, keepdim=True)
            mask = seen.reshape(-1, 1, 1, seen.shape[-1])  # one row for all heads and queries
        mixed = scaled_dot_product_attention(
            self._split(self.query(query)),
            self._split(self.key(key)),
            self._split(self.value(value)),
            attn_mask=mask,
        )
        # B heads N d -> *batch N (heads d)
        return self.out(mixed.transpose(1, 2).reshape(query.shape))  # type: ignore[no-any-return]

    def _split(self, x: Float[Tensor, "*batch N D"]) -> Float[Tensor, "B heads N d"]:
        """Part the heads; all leading axes become one, which the fused kernels ask for."""
        return x.reshape(-1, x.shape[-2], self.heads, x.shape[-1] // self.heads).transpose(1, 2)


class CrossLayer(nn.Module):
    """Semantic tokens ask the generative tokens of their view, then an MLP; both as residuals.

    Source: H-EmbodVis/VEGA-3D @ 9c96924, llava/model/feature_fusion.py, `cross_attention`: four
    LayerNorms, positions on queries and keys, an MLP four times as wide.
    """

    def __init__(self, dim: int, heads: int, drop: float, salt: int) -> None:
        """Build it; `salt` must differ between the layers of a network."""
        super().__init__()
        self.norm_query = nn.LayerNorm(dim)
        self.norm_key = nn.LayerNorm(dim)
        self.norm_value = nn.LayerNorm(dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop = drop
        self.salt = salt

    def forward(
        self,
        sem: Float[Tensor, "*batch N D"],
        gen: Float[Tensor, "*batch N D"],
        positions: Float[Tensor, "N D"],
        valid: Bool[Tensor, "*batch N"] | None,
        seeds: Int[Tensor, "*batch"] | None,
    ) -> Float[Tensor, "*batch N D"]:
        """Return the semantic tokens with what they found added."""
        drop = self.drop if self.training else 0.0
        found = self.attention(
            self.norm_query(sem) + positions,
            self.norm_key(gen) + positions,
            self.norm_value(gen),
            valid,
        )
        sem = sem + dropout(found, drop, seeds, self.salt)
        return sem + dropout(self.mlp(self.norm_mlp(sem)), drop, seeds, self.salt + 1)


class ReaderLayer(nn.Module):
    """Self-attention and an MLP over the tokens of a view, both as residuals."""

    def __init__(self, dim: int, heads: int) -> None:
        """Build it; `heads` must divide `dim`."""
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(
        self, x: Float[Tensor, "*batch N D"], valid: Bool[Tensor, "*batch N"] | None
    ) -> Float[Tensor, "*batch N D"]:
        """Return the tokens after one layer."""
        normed = self.norm_attention(x)
        x = x + self.attention(normed, normed, normed, valid)
        return x + self.mlp(self.norm_mlp(x))  # type: ignore[no-any-return]
