"""Wan's DiT blocks with all that a constant prompt makes constant computed once.

The prompt's L rows are followed by 512 - L padding rows, all alike and all attended to. Attention
over them is exactly a softmax over L + 1 keys, the last one's logit raised by log(512 - L), and
what the output projection makes of each head's value is a constant row: cross-attention becomes
heads x (L + 1) weights and one thin product. Letters: n videos, N tokens, C channels, L rows.
"""

from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vega3d.pipeline.backbones.float8 import Float8Linear
from vega3d.pipeline.backbones.gpu_products import linear_gelu

_FEW_ROWS = 4

Rotary = tuple[Float32[Tensor, "1 N 1 D"], Float32[Tensor, "1 N 1 D"]]


class FoldedBlock(nn.Module):
    """One block for one prompt; equal to diffusers' WanTransformerBlock up to rounding.

    Norms, modulation, scores of the text and the residual stream are float32; the large products
    have the type of the block's weights.

    Source: diffusers, transformer_wan.py; Wan-Video/Wan2.1, wan/modules/model.py.
    """

    def __init__(
        self,
        block: Any,  # noqa: ANN401 - diffusers is untyped here
        text: Float[Tensor, "1 L1 C"],
        counts: Float32[Tensor, " L1"],
    ) -> None:
        """Rewrite a block's weights.

        Args:
            block: A WanTransformerBlock; bfloat16 where its large matrices are held so.
            text: The prompt's different rows after the text MLP, the padding row last.
            counts: How often each occurs among the rows that are attended to.
        """
        super().__init__()
        own, cross = block.attn1, block.attn2
        self.heads: int = own.heads
        self.dtype: torch.dtype = own.to_q.weight.dtype
        self.table = nn.Parameter(block.scale_shift_table.detach().clone())
        self.eps: float = block.norm1.eps
        self.to_qkv = _joined(own.to_q, own.to_k, own.to_v)
        self.norm_q, self.norm_k = own.norm_q, own.norm_k
        self.to_out = own.to_out[0]
        self.norm_text, self.to_text_q = block.norm2, cross.to_q
        self.text_eps: float = cross.norm_q.eps
        keys, rows, bias = _folded_text(cross, text)
        self.text_keys = nn.Parameter(keys)
        self.text_rows, self.text_bias = nn.Parameter(rows), nn.Parameter(bias)
        self.log_counts = nn.Parameter(counts.float().log())
        pairs = self.table.shape[-1] // self.heads // 2
        self.signs = nn.Buffer(torch.tensor([-1.0, 1.0]).repeat(pairs).to(self.table.device))
        self.expand, self.shrink = block.ffn.net[0].proj, block.ffn.net[2]
        self.requires_grad_(False).eval()

    def forward(
        self, hidden: Float32[Tensor, "n N C"], modulation: Float32[Tensor, "m 6 C"], rotary: Rotary
    ) -> Float32[Tensor, "n N C"]:
        """Return the block's output; modulation is one for all videos, or one for each."""
        parts = (self.table + modulation).unsqueeze(2).unbind(1)  # six of m 1 C
        shift, scale, gate, shift_ff, scale_ff, gate_ff = parts
        hidden = hidden + gate * self._attend(self._modulated(hidden, shift, scale), rotary)
        hidden = hidden + self._attend_to_text(hidden)
        inner = self._expanded(self._modulated(hidden, shift_ff, scale_ff))
        found: Tensor = hidden + gate_ff * self.shrink(inner).float()
        return found

    def _expanded(self, rows: Float[Tensor, "n N C"]) -> Float[Tensor, "n N D"]:
        expand = self.expand
        if rows.is_cuda and expand.weight.dtype == torch.bfloat16:
            found: Tensor = linear_gelu(rows, expand.weight, expand.bias)
            return found
        return nn.functional.gelu(expand(rows), approximate="tanh")

    def _modulated(
        self,
        hidden: Float32[Tensor, "n N C"],
        shift: Float32[Tensor, "m 1 C"],
        scale: Float32[Tensor, "m 1 C"],
    ) -> Float[Tensor, "n N C"]:
        width = (hidden.shape[-1],)
        if len(scale) == 1:
            weight, bias = 1 + scale[0, 0], shift[0, 0]
            found = nn.functional.layer_norm(hidden, width, weight, bias, self.eps)
        else:
            normed = nn.functional.layer_norm(hidden, width, eps=self.eps)
            found = torch.addcmul(shift, normed, 1 + scale)
        return found.to(self.dtype)

    def _attend(self, rows: Float[Tensor, "n N C"], rotary: Rotary) -> Float32[Tensor, "n N C"]:
        query, key, value = self.to_qkv(rows).chunk(3, dim=-1)
        cosine, sine = rotary[0], rotary[1] * self.signs
        turned = [
            _rotate(norm(part.float()).unflatten(-1, (self.heads, -1)), cosine, sine).to(rows.dtype)
            for norm, part in ((self.norm_q, query), (self.norm_k, key))
        ]
        heads = [part.transpose(1, 2) for part in (*turned, value.unflatten(-1, (self.heads, -1)))]
        mixed = nn.functional.scaled_dot_product_attention(*heads)
        found: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2)).float()
        return found

    def _attend_to_text(self, hidden: Float32[Tensor, "n N C"]) -> Float32[Tensor, "n N C"]:
        query = self.to_text_q(self.norm_text(hidden).to(self.dtype)).float()
        scale = torch.rsqrt(query.square().mean(-1, keepdim=True) + self.text_eps)
        per_head = (query * scale).unflatten(-1, (self.heads, -1))
        if query.is_cuda and self.text_keys.shape[1] <= _FEW_ROWS:
            # A matrix product so thin is slow there; as sums it melts into the norm when compiled.
            keys = self.text_keys.unbind(1)
            scores = torch.stack([(per_head * key).sum(-1) for key in keys], dim=-1)
        else:
            scores = torch.einsum("nthd,hkd->nthk", per_head, self.text_keys)
        weights = (scores + self.log_counts).softmax(dim=-1)
        return nn.functional.linear(weights.flatten(2), self.text_rows, self.text_bias)

    def round_to_float8(self) -> None:
        """Round the large matrices to 8 bits; a block in bfloat16 on a GPU that multiplies them."""
        for name in ("to_qkv", "to_out", "to_text_q", "expand", "shrink"):
            setattr(self, name, Float8Linear(getattr(self, name)))


def distinct_rows(
    rows: Float[Tensor, "L D"], attended: int
) -> tuple[Float[Tensor, "1 L1 D"], Float32[Tensor, " L1"]]:
    """Return the prompt's rows and one of padding, and how often each is attended to."""
    padded = nn.functional.pad(rows, (0, 0, 0, 1))[None]
    counts = torch.ones(len(rows) + 1)
    counts[-1] = attended - len(rows)
    return (padded, counts) if len(rows) < attended else (padded[:, :-1], counts[:-1])


def _folded_text(
    cross: Any,  # noqa: ANN401 - diffusers is untyped here
    text: Float[Tensor, "1 L1 C"],
) -> tuple[Float32[Tensor, "heads L1 d"], Float32[Tensor, "C heads_L1"], Float32[Tensor, " C"]]:
    """Return keys with norm and scale in them, and each head's output for each row.

    Products of weights are taken in float64 and rounded once.
    """
    heads: int = cross.heads
    key: Tensor = cross.norm_k(cross.to_k(text).float())[0] * cross.norm_q.weight
    width = key.shape[-1] // heads
    keys = key.reshape(-1, heads, width).transpose(0, 1) * width**-0.5  # heads L1 d
    value: Tensor = cross.to_v(text)[0].double().reshape(-1, heads, width)  # L1 heads d
    out = cross.to_out[0]
    weight: Tensor = out.weight.detach().double().reshape(-1, heads, width)  # C heads d
    rows = torch.einsum("chd,khd->chk", weight, value).flatten(1).float()
    return keys.float().clone(), rows, out.bias.detach().float().clone()


def _rotate(
    x: Float32[Tensor, "n N heads D"],
    cosine: Float32[Tensor, "1 N 1 D"],
    sine: Float32[Tensor, "1 N 1 D"],
) -> Float32[Tensor, "n N heads D"]:
    """Turn neighbouring pairs by the position's angles; a pair's first sine is negative.

    A GPU reads and writes neighbours so, which halves the time of what it is melted into.

    Source: diffusers, transformer_wan.py (tables with each angle twice).
    """
    swapped = x.reshape(*x.shape[:-1], -1, 2).flip(-1).flatten(-2)
    turned: Tensor = x * cosine + swapped * sine
    return turned


def _joined(*layers: nn.Linear) -> nn.Linear:
    """Return several layers of one input as one."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    joined = nn.Linear(weight.shape[1], weight.shape[0])
    joined.weight = nn.Parameter(weight)
    joined.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))
    return joined
