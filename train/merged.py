"""The fusion of the released spatial-reasoning model: a merger in the place of the projectors.

The generator's tokens lie twice as dense as the language model's, each way; a merger makes one of
2 x 2, as the vision half of Qwen2.5-VL does with its own tokens, whose merger's output is the
semantic stream as it comes.

Letters: H W generative tokens of a view; N = H/2 W/2 semantic tokens, row by row; C generative
channels; D channels of both streams behind the merger.

Source: H-EmbodVis/VEGA-3D, branch spatial-reasoning @ ca64583; transformers, Qwen2_5_VLPatchMerger.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vega3d.train.fusion import GateMix

_SIDE = 2
_NORM_EPS = 1e-6


class TokenMerger(nn.Module):
    """Norm every token, join 2 x 2 of them in one, and bring it to the hidden width."""

    def __init__(self, gen_dim: int, inner_dim: int, hidden_dim: int) -> None:
        """Build it; all widths are the checkpoint's."""
        super().__init__()
        joined = _SIDE**2 * gen_dim
        self.ln_q = nn.RMSNorm(gen_dim, eps=_NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(joined, inner_dim), nn.GELU(), nn.Linear(inner_dim, hidden_dim)
        )

    def forward(self, gen: Float[Tensor, "*batch H W C"]) -> Float[Tensor, "*batch N D"]:
        """Return one token for every 2 x 2, row by row; within them, row by row too."""
        *batch, rows, cols, channels = gen.shape
        if rows % _SIDE or cols % _SIDE:
            raise ValueError(
                f"the merger joins 2 x 2 tokens: rows and columns must be even, got {rows} x {cols}"
            )
        normed = self.ln_q(gen)
        # (H 2) (W 2) C -> (H W) (2 2 C)
        blocks = normed.reshape(*batch, rows // _SIDE, _SIDE, cols // _SIDE, _SIDE, channels)
        joined = blocks.transpose(-4, -3).flatten(-3).flatten(-3, -2)
        merged: Tensor = self.mlp(joined)
        return merged


class MergedFusion(nn.Module):
    """Merge the generative tokens, then mix by a gate per token: S + r (M - S)."""

    def __init__(self, gen_dim: int, inner_dim: int, hidden_dim: int) -> None:
        """Build it; all widths are the checkpoint's."""
        super().__init__()
        self.gen_dim, self.hidden_dim = gen_dim, hidden_dim
        self.merger = TokenMerger(gen_dim, inner_dim, hidden_dim)
        self.mixer = GateMix(hidden_dim, gate_dim=1, residual=True)

    def forward(
        self,
        gen: Float[Tensor, "*batch H W C"],
        sem: Float[Tensor, "*batch N D"],
        *,
        force_gate: float | None = None,
    ) -> tuple[Float[Tensor, "*batch N D"], Float32[Tensor, "*batch N 1"]]:
        """Return the fused tokens and the weight of the semantic token in each mix.

        Args:
            gen: Generative tokens on a grid twice as dense each way as the semantic one.
            sem: Output of the vision half's own merger.
            force_gate: Use this weight of the semantic token in place of the learned one.
        """
        if sem.shape[-1] != self.hidden_dim or gen.shape[-1] != self.gen_dim:
            raise ValueError(
                f"this fusion takes {self.gen_dim} generative and {self.hidden_dim} semantic "
                f"channels, got {gen.shape[-1]} and {sem.shape[-1]}"
            )
        merged = self.merger(gen)
        if merged.shape != sem.shape:
            raise ValueError(
                f"{gen.shape[-3]} x {gen.shape[-2]} generative tokens merge into "
                f"{merged.shape[-2]}, and there are {sem.shape[-2]} semantic ones; resize the "
                "generator's grid to twice the semantic one"
            )
        fused, gate = self.mixer(merged, sem, None, None, force_gate)
        assert gate is not None
        return fused.to(torch.promote_types(sem.dtype, merged.dtype)), gate
