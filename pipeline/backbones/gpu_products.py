"""Matrix products of a GPU's libraries that a compiler would take apart or not know.

Each is opaque to torch.compile, and takes bfloat16 on CUDA alone: elsewhere the plain functions of
torch compute the same.
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


@torch.library.custom_op("vega3d::wide_attention", mutates_args=())
def wide_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with one head of [B, N, C], scores and softmax in float32.

    Fused kernels take heads of up to 256 channels; for the VAE's 384 two products are faster.
    """
    scores = torch.bmm(query, key.transpose(1, 2), out_dtype=torch.float32)
    weights = scores.mul_(query.shape[-1] ** -0.5).softmax(dim=-1).to(value.dtype)
    return torch.bmm(weights, value)


@wide_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    del key
    return query.new_empty((*query.shape[:-1], value.shape[-1]))
