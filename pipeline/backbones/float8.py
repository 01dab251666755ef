"""Linear layers in 8 bits: e4m3 numbers with one scale a row of inputs and one an output channel.

Letters: B rows, I inputs, O outputs.
"""

import torch
from jaxtyping import BFloat16, Float, Float32
from torch import Tensor, nn

LARGEST = 448.0
"""Of float8_e4m3fn. Source: Micikevicius et al., FP8 Formats for Deep Learning (2022)."""

_SMALLEST = 1e-12


class Float8Linear(nn.Module):
    """A linear layer whose products are of 8-bit numbers, summed in float32.

    Hopper and later multiply them twice as fast as bfloat16.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Round a layer's weights."""
        super().__init__()
        weight, scale = rounded(linear.weight.detach())
        self.weight = nn.Buffer(weight)
        self.scale = nn.Buffer(scale.t().contiguous())
        self.bias = nn.Parameter(linear.bias.detach().bfloat16(), requires_grad=False)

    def forward(self, x: BFloat16[Tensor, "... I"]) -> BFloat16[Tensor, "... O"]:
        """Return the layer's output."""
        rows, scale = rounded(x.flatten(0, -2))
        found: Tensor = torch._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return found.view(*x.shape[:-1], -1)


def rounded(rows: Float[Tensor, "B I"]) -> tuple[Float[Tensor, "B I"], Float32[Tensor, "B 1"]]:
    """Return rows in float8_e4m3fn, and what each is to be multiplied with."""
    scale = rows.abs().amax(dim=-1, keepdim=True).float().clamp(min=_SMALLEST) / LARGEST
    return (rows / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale
