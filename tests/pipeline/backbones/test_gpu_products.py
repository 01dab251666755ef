"""Operators meant for a GPU, in float64's light and as a compiler sees them; here on a CPU."""

import torch
from torch import nn

from vega3d.pipeline.backbones.gpu_products import linear_gelu, wide_attention


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_wide_attention_is_attention() -> None:
    query, key, value = _normal(2, 50, 384), _normal(2, 51, 384), _normal(2, 51, 40)
    attend = nn.functional.scaled_dot_product_attention
    expected = attend(query.double(), key.double(), value.double())
    torch.testing.assert_close(
        wide_attention(query, key, value).double(), expected, atol=1e-5, rtol=0
    )
    rounded = wide_attention(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert float((rounded.double() - expected).norm() / expected.norm()) < 1e-2


def test_operators_are_the_same_compiled_for_any_batch() -> None:
    def both(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return linear_gelu(wide_attention(rows, rows, rows), weight, bias)

    weight, bias = _normal(24, 16), _normal(24)
    compiled = torch.compile(both, backend="aot_eager", dynamic=True)
    for batch in (2, 3):
        rows = _normal(batch, 9, 16)
        attended = nn.functional.scaled_dot_product_attention(rows, rows, rows)
        expected = nn.functional.gelu(attended @ weight.t() + bias)  # a CPU takes the exact one
        torch.testing.assert_close(both(rows, weight, bias), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(compiled(rows, weight, bias), expected, atol=1e-5, rtol=1e-4)
