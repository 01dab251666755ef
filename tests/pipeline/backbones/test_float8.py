"""Rounding to 8 bits, against what the format can hold."""

import torch

from vega3d.pipeline.backbones.float8 import LARGEST, rounded


def test_each_row_uses_all_of_the_format() -> None:
    rows = torch.randn((6, 64), generator=torch.Generator().manual_seed(0))
    rows *= torch.tensor([1e-4, 1e-2, 1, 1e2, 1e4, 0.0]).unsqueeze(1)
    found, scale = rounded(rows)
    back = found.float() * scale
    assert found.dtype == torch.float8_e4m3fn
    assert (found[:5].float().abs().amax(dim=1) == LARGEST).all()
    assert (back[5] == 0).all()
    # Three bits after the first: half a step is 1/16 of a value; below 2^-6 steps are even.
    allowed = torch.maximum(rows.abs() / 16, scale * 2.0**-10)
    assert ((back - rows).abs() <= allowed * 1.001).all()
