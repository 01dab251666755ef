"""A plain vision transformer whose parameters are called as DINOv2's and timm's are.

For published checkpoints whose class is in no library that we depend on: VGGT's trunk and OpenVLA's
pair. Letters: n views, h w tokens, N tokens with those in front, C channels, d channels of a head.

Source: facebookresearch/dinov2, dinov2/models/vision_transformer.py and layers/ (names, order of
class, register and patch tokens); huggingface/pytorch-image-models, vision_transformer.py.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Turns = tuple[Tensor, Tensor]
"""Cosine and sine [N, d] of the angles by which queries and keys are turned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VitSizes:
    """What decides the shapes."""

    width: int
    depth: int
    heads: int
    mlp: int
    patch: int
    side: int
    """Of the square table of positions, tokens."""

    registers: int = 0
    class_token: bool = True
    class_position: bool = True
    """The class token has a place in the table too."""

    scales: bool = True
    """Each part is scaled, channel by channel, before it is added to the residual."""


class Attention(nn.Module):
    """Attention of all tokens to all, its queries and keys normalised and turned where asked."""

    def __init__(self, width: int, heads: int, *, normalised: bool = False) -> None:
        """Make the parameters; `normalised` has a norm for queries and one for keys."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads) if normalised else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if normalised else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(
        self, tokens: Float[Tensor, "n N C"], turns: Turns | None = None
    ) -> Float[Tensor, "n N C"]:
        """Return what each token takes from all."""
        count, length, width = tokens.shape
        split = self.qkv(tokens).reshape(count, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        if turns is not None:
            query, key = _turned(query, turns), _turned(key, turns)
        query, key = query.to(value.dtype), key.to(value.dtype)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, length, width))
        return projected


class Scale(nn.Module):
    """A factor for each channel."""

    def __init__(self, width: int) -> None:
        """Make the parameter."""
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, tokens: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
        """Return the tokens, scaled."""
        return tokens * self.gamma


class Mlp(nn.Module):
    """Two matrices and a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        """Make the parameters."""
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
        """Return each token's own change."""
        changed: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return changed


class Block(nn.Module):
    """One layer: attention, then the feed-forward part, each added to the residual."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp: int,
        *,
        eps: float,
        scales: bool = True,
        normalised: bool = False,
    ) -> None:
        """Make the parameters."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, normalised=normalised)
        self.ls1 = Scale(width) if scales else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp)
        self.ls2 = Scale(width) if scales else nn.Identity()

    def forward(
        self, tokens: Float[Tensor, "n N C"], turns: Turns | None = None
    ) -> Float[Tensor, "n N C"]:
        """Return the tokens after this layer."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), turns))
        out: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return out


class PatchEmbed(nn.Module):
    """Each patch's pixels to one token."""

    def __init__(self, width: int, patch: int) -> None:
        """Make the parameters."""
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, pixels: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n C h w"]:
        """Return the tokens on their grid; a rest at the right and lower edge is left out."""
        embedded: Tensor = self.proj(pixels)
        return embedded


class VisionTransformer(nn.Module):
    """Patches, positions, class and register tokens, layers and a last norm."""

    def __init__(self, sizes: VitSizes) -> None:
        """Make the parameters."""
        super().__init__()
        self.sizes, width = sizes, sizes.width
        self.patch_embed = PatchEmbed(width, sizes.patch)
        places = sizes.side**2 + (1 if sizes.class_token and sizes.class_position else 0)
        self.pos_embed = nn.Parameter(torch.empty(1, places, width))
        if sizes.class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        if sizes.registers:
            self.register_tokens = nn.Parameter(torch.empty(1, sizes.registers, width))
        self.blocks = nn.ModuleList(
            Block(width, sizes.heads, sizes.mlp, eps=1e-6, scales=sizes.scales)
            for _ in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @property
    def prefix(self) -> int:
        """Tokens in front of the image's."""
        return int(self.sizes.class_token) + self.sizes.registers

    def embed(self, pixels: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n N C"]:
        """Return class, register and patch tokens, with positions."""
        grid = self.patch_embed(pixels)
        count, _, rows, cols = grid.shape
        front = self.sizes.class_token and self.sizes.class_position
        table = self.pos_embed[:, 1:] if front else self.pos_embed
        tokens = grid.flatten(2).transpose(1, 2) + _resized(table, self.sizes.side, rows, cols)
        parts = [tokens]
        if self.sizes.registers:
            parts.insert(0, self.register_tokens.expand(count, -1, -1))
        if self.sizes.class_token:
            first = self.cls_token + self.pos_embed[:, :1] if front else self.cls_token
            parts.insert(0, first.expand(count, -1, -1))
        return torch.cat(parts, dim=1)


def grid_turns(rows: int, cols: int, prefix: int, head: int, device: str, base: float) -> Turns:
    """Return the turns of tokens on a grid: half of a head's channels by row, half by column.

    Tokens in front stand at 0, those of the image from 1 on.

    Args:
        rows: Of the grid.
        cols: Of the grid.
        prefix: Tokens in front.
        head: Channels of a head, a multiple of 4.
        device: Of the result.
        base: Of the frequencies.

    Source: facebookresearch/vggt, layers/rope.py (RotaryPositionEmbedding2D) and
    models/aggregator.py (positions shifted by 1).
    """
    at = torch.meshgrid(torch.arange(rows) + 1.0, torch.arange(cols) + 1.0, indexing="ij")
    places = torch.cat([torch.zeros(prefix, 2), torch.stack(at, dim=-1).reshape(-1, 2)])
    frequencies = 1.0 / base ** (torch.arange(0, head // 2, 2).float() / (head // 2))
    angles = places[:, :, None] * frequencies  # N, axis, d / 4
    both = torch.cat([angles, angles], dim=-1).flatten(1)  # row row col col
    return both.cos().to(device), both.sin().to(device)


def _turned(values: Float[Tensor, "n heads N d"], turns: Turns) -> Float[Tensor, "n heads N d"]:
    """Turn each axis's half of the channels: its first half against its second."""
    by_axis = values.reshape(*values.shape[:-1], 2, 2, -1)  # axis, half, d / 4
    against = torch.stack([-by_axis[..., 1, :], by_axis[..., 0, :]], dim=-2).flatten(-3)
    return values * turns[0] + against * turns[1]


def _resized(
    table: Float[Tensor, "1 places C"], side: int, rows: int, cols: int
) -> Float[Tensor, "1 N C"]:
    """Return the table of positions for another grid, bicubic with antialias, in float32."""
    if (rows, cols) == (side, side):
        return table
    square = table.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(square, size=(rows, cols), mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1).reshape(1, rows * cols, -1)
