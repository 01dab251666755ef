"""Matrix products of a GPU's libraries that a compiler would take apart or not know.

Each operator is opaque to torch.compile, and meant for bfloat16 on CUDA: elsewhere the plain
functions of torch compute the same, but for `linear_gelu`'s exact gelu on a CPU.
"""

import torch
from torch import Tensor


@torch.library.custom_op("vega3d::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return gelu(x w + b), tanh's approximation, in the product's own last step.

    The result is four times as wide as x: on its own, gelu would read and write it once more.
    """
    rows = torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
    return rows.view(*x.shape[:-1], -1)


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    del bias
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def wide_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with one head of [B, N, C], scores and softmax in float32.

    Fused kernels take heads of up to 256 channels; for the VAE's 384 two products are faster. What
    is between them reads the scores once and writes weights in the type of the values.
    """
    scores = wide_scores(query, key) * query.shape[-1] ** -0.5
    return torch.bmm(scores.softmax(dim=-1).to(value.dtype), value)


@torch.library.custom_op("vega3d::wide_scores", mutates_args=())
def wide_scores(query: Tensor, key: Tensor) -> Tensor:
    """Return the products of [B, N, C] and [B, M, C], summed and kept in float32."""
    if not query.is_cuda:
        return torch.bmm(query.float(), key.float().transpose(1, 2))
    return torch.bmm(query, key.transpose(1, 2), out_dtype=torch.float32)


@wide_scores.register_fake
def _(query: Tensor, key: Tensor) -> Tensor:
    return query.new_empty((*query.shape[:-1], key.shape[1]), dtype=torch.float32)
