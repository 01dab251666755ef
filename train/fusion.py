"""Fusion of generative and semantic tokens: Eq. 6-8 of the paper, and every variant beside it.

One interface: `GatedFusion(gen_dim, sem_dim, hidden_dim, variant)(gen, sem) -> (fused, gate)`.
A gate is the weight of the SEMANTIC token: 1 is all semantic, 0 all generative.

Letters: N tokens of a view, row by row; Dg, Ds channels of the two inputs; D hidden channels;
G = 1 for a gate per token, D for a gate per channel.

Source: arXiv 2603.19235v2, Eq. 6-8 and Table 5; the released code's own variants are from
H-EmbodVis/VEGA-3D @ 9c96924 and @ ca64583, llava/model/feature_fusion.py.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vega3d.train.attention import CrossLayer, sincos_positions
from vega3d.train.config import GATED, VARIANTS

_GATE_STD = 0.02  # the released code's init of every new Linear (its language model's)
_GATE_EPS = torch.finfo(torch.float32).eps
_SHARE_INIT = 0.2  # r of token_gated_residual, branch spatial-reasoning
Fused = tuple[Float[Tensor, "*batch M D"], Float[Tensor, "*batch N G"] | None]


_CARD = """---
{{ card_data }}
---

# A fusion of generative and semantic tokens, trained with vega3d

{% if settings %}Built with `{{ settings }}`; it takes tokens as the stores hold them: their
standardisation is folded in. {% endif %}Load it with the package that made it:

```python
from vega3d.train import GatedFusion

fusion = GatedFusion.from_pretrained("...")  # this folder, or its name on the hub
fused, gate = fusion(generative, semantic)  # [..., tokens, channels] each
```
"""


class GatedFusion(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="vega3d",
    tags=["vega3d", "feature-fusion"],
    license="apache-2.0",
    model_card_template=_CARD,
):
    """Project both streams (Eq. 6) and mix them into one token each (Eq. 7-8)."""

    def __init__(
        self,
        gen_dim: int,
        sem_dim: int,
        hidden_dim: int,
        variant: str = "adaptive",
        grid: Sequence[int] = (14, 14),
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        """Build the layers of one variant, and only those.

        Args:
            gen_dim: Channels of the generative tokens.
            sem_dim: Channels of the semantic tokens.
            hidden_dim: Channels of the result.
            variant: A name of `VARIANTS`.
            grid: Rows and columns of a view's tokens; only cross-attention needs it.
            heads: Attention heads; only cross-attention has some.
            dropout: Share dropped in training; only cross-attention has some.
        """
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}")
        self.gen_dim, self.sem_dim, self.hidden_dim = gen_dim, sem_dim, hidden_dim
        self.variant = variant
        self.project_gen = _projector(gen_dim, hidden_dim) if _uses(variant, "gen") else None
        self.project_sem = _projector(sem_dim, hidden_dim) if _uses(variant, "sem") else None
        self.mixer = _mixer(variant, hidden_dim, tuple(grid), heads, dropout)

    def forward(
        self,
        gen: Float[Tensor, "*batch N Dg"],
        sem: Float[Tensor, "*batch N Ds"],
        *,
        valid: Bool[Tensor, "*batch N"] | None = None,
        seeds: Int[Tensor, "*batch"] | None = None,
        force_gate: float | None = None,
    ) -> Fused:
        """Return the fused tokens and the gate.

        Args:
            gen: Generative tokens.
            sem: Semantic tokens of the same cells.
            valid: False for tokens without a feature, which may be NaN; attention does not look
                at them. None is all valid.
            seeds: One a view, for dropout that does not depend on the batch.
            force_gate: Use this weight of the semantic token in place of the learned one.

        Returns:
            Fused tokens in the parameters' dtype, N of them (2 N for `sequence`: semantic, then
            generative); and the weight of the semantic token in float32, None where a variant has
            no such weight.
        """
        self._check(gen, sem, force_gate)
        if valid is not None:  # else 0 x NaN would spread from a token that nobody looks at
            gen, sem = (torch.where(valid[..., None], stream, 0.0) for stream in (gen, sem))
        gen = gen if self.project_gen is None else self.project_gen(gen)
        sem = sem if self.project_sem is None else self.project_sem(sem)
        fused, gate = self.mixer(gen, sem, valid, seeds, force_gate)
        return fused.to(next(self.parameters()).dtype), gate  # a float32 gate makes it float32

    def _check(self, gen: Tensor, sem: Tensor, force_gate: float | None) -> None:
        if gen.shape[-1] != self.gen_dim or sem.shape[-1] != self.sem_dim:
            raise ValueError(
                f"this fusion takes {self.gen_dim} generative and {self.sem_dim} semantic "
                f"channels, got {gen.shape[-1]} and {sem.shape[-1]}; are the streams swapped, "
                "or is it another tap?"
            )
        if gen.shape[:-1] != sem.shape[:-1]:
            raise ValueError(
                "both streams need the same views and tokens, got "
                f"{tuple(gen.shape[:-1])} generative and {tuple(sem.shape[:-1])} semantic"
            )
        if force_gate is None:
            return
        if self.variant not in (*GATED, "weighted"):
            raise ValueError(
                f"{self.variant} has no gate to force; {', '.join((*GATED, 'weighted'))} have one"
            )
        if not 0 <= force_gate <= 1:
            raise ValueError(f"force_gate is a weight in [0, 1], got {force_gate}")

    @classmethod
    def _from_pretrained(cls, **options: Any) -> "GatedFusion":  # noqa: ANN401 - the mixin's
        # The mixin is lenient by default, and prints to stdout, which holds our JSON result.
        with contextlib.redirect_stdout(sys.stderr):
            model: GatedFusion = super()._from_pretrained(**{**options, "strict": True})
        return model


def _projector(in_dim: int, out_dim: int) -> nn.Sequential:
    """Eq. 6; two layers with an exact GELU, as the released `mlp2x_gelu`."""
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))


def _uses(variant: str, stream: str) -> bool:
    single = {"semantic": "sem", "generative": "gen", "blind": ""}
    return single.get(variant, stream) == stream


def _mixer(variant: str, dim: int, grid: tuple[int, ...], heads: int, dropout: float) -> nn.Module:
    layers = {"cross_attention_1": 1, "cross_attention_3": 3}
    if variant in layers:
        return CrossMix(dim, layers[variant], grid, heads, dropout)
    makers: dict[str, Callable[[], nn.Module]] = {
        "adaptive": lambda: GateMix(dim, gate_dim=1),
        "channel": lambda: GateMix(dim, gate_dim=dim),
        "token_gated": lambda: GateMix(dim, gate_dim=1, mix_normed=True),
        "token_gated_residual": lambda: GateMix(dim, gate_dim=1, residual=True),
        "add": AddMix,
        "weighted": WeightedMix,
        "concat": lambda: ConcatMix(dim),
        "sequence": SequenceMix,
        "semantic": lambda: SingleMix(weight=1.0),
        "generative": lambda: SingleMix(weight=0.0),
        "blind": lambda: BlindMix(dim),
    }
    return makers[variant]()


class GateMix(nn.Module):
    """Eq. 7-8: a gate that sees both normed streams weighs them against each other.

    `mix_normed` mixes the normed streams (released `token_gated`); `residual` adds a learned
    share r of the change to the semantic stream (released `token_gated_residual`): S + r (M - S).
    """

    def __init__(
        self, dim: int, gate_dim: int, mix_normed: bool = False, residual: bool = False
    ) -> None:
        """Build it; `gate_dim` is 1 for a gate per token, `dim` for one per channel."""
        super().__init__()
        self.norm_gen = nn.LayerNorm(dim)
        self.norm_sem = nn.LayerNorm(dim)
        self.gate = nn.Linear(2 * dim, gate_dim)
        nn.init.normal_(self.gate.weight, std=_GATE_STD)
        nn.init.zeros_(self.gate.bias)
        self.mix_normed = mix_normed
        self.share = nn.Parameter(torch.tensor(_SHARE_INIT)) if residual else None

    def forward(
        self,
        gen: Float[Tensor, "*batch N D"],
        sem: Float[Tensor, "*batch N D"],
        valid: Bool[Tensor, "*batch N"] | None,
        seeds: Int[Tensor, "*batch"] | None,
        force_gate: float | None,
    ) -> Fused:
        """Return (1 - g) gen + g sem, and g."""
        del valid, seeds
        normed_gen, normed_sem = self.norm_gen(gen), self.norm_sem(sem)
        # In float32 even under autocast: bfloat16 rounds a gate of 0.998 to 1.
        with torch.autocast(gen.device.type, enabled=False):
            seen = torch.cat([normed_gen.float(), normed_sem.float()], dim=-1)
            logits = nn.functional.linear(seen, self.gate.weight.float(), self.gate.bias.float())
        gate = torch.sigmoid(logits).clamp(_GATE_EPS, 1 - _GATE_EPS)  # float32 rounds it to 1
        if force_gate is not None:
            gate = torch.full_like(gate, force_gate)
        if self.mix_normed:
            gen, sem = normed_gen, normed_sem
        mixed = (1 - gate) * gen + gate * sem
        if self.share is not None:
            mixed = sem + self.share * (mixed - sem)
        return mixed, gate


class AddMix(nn.Module):
    """The sum of both streams; it has no gate."""

    def forward(self, gen: Tensor, sem: Tensor, *_: object) -> Fused:
        """Return gen + sem."""
        return gen + sem, None


class WeightedMix(nn.Module):
    """One learned weight a stream, for all tokens alike: (w_s S + w_g G) / (w_s + w_g)."""

    def __init__(self) -> None:
        """Start from equal weights, as the released code does."""
        super().__init__()
        self.weight_sem = nn.Parameter(torch.tensor(0.5))
        self.weight_gen = nn.Parameter(torch.tensor(0.5))

    def forward(
        self, gen: Tensor, sem: Tensor, valid: object, seeds: object, force_gate: float | None
    ) -> Fused:
        """Return the weighted mean, and the semantic stream's share of the weight."""
        del valid, seeds
        gate = self.weight_sem / (self.weight_sem + self.weight_gen)
        if force_gate is not None:
            gate = torch.full_like(gate, force_gate)
        return (1 - gate) * gen + gate * sem, gate.float().expand(*sem.shape[:-1], 1)


class ConcatMix(nn.Module):
    """Channel concatenation of the normed streams, semantic first, and an MLP; it has no gate."""

    def __init__(self, dim: int) -> None:
        """Build it; the MLP comes back to `dim` channels."""
        super().__init__()
        self.norm_gen = nn.LayerNorm(dim)
        self.norm_sem = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, gen: Tensor, sem: Tensor, *_: object) -> Fused:
        """Return MLP(Concat(LN(sem), LN(gen)))."""
        return self.mlp(torch.cat([self.norm_sem(sem), self.norm_gen(gen)], dim=-1)), None


class SequenceMix(nn.Module):
    """Both streams one after the other along the tokens; it has no gate."""

    def forward(self, gen: Tensor, sem: Tensor, *_: object) -> Fused:
        """Return the semantic tokens, then the generative ones."""
        return torch.cat([sem, gen], dim=-2), None


class CrossMix(nn.Module):
    """Semantic tokens attend to generative ones, one layer after the other; it has no gate."""

    def __init__(
        self, dim: int, layers: int, grid: tuple[int, ...], heads: int, dropout: float
    ) -> None:
        """Build it; `dim` must be a multiple of 4 and of `heads`."""
        super().__init__()
        self.layers = nn.ModuleList(
            CrossLayer(dim, heads, dropout, salt=2 * index) for index in range(layers)
        )
        self.positions: Tensor
        self.register_buffer("positions", sincos_positions(grid, dim), persistent=False)

    def forward(
        self,
        gen: Float[Tensor, "*batch N D"],
        sem: Float[Tensor, "*batch N D"],
        valid: Bool[Tensor, "*batch N"] | None,
        seeds: Int[Tensor, "*batch"] | None,
        force_gate: None,
    ) -> Fused:
        """Return the semantic tokens with what they found in the generative ones."""
        del force_gate
        if gen.shape[-2] != self.positions.shape[0]:
            raise ValueError(
                f"cross-attention was built for {self.positions.shape[0]} tokens a view, got "
                f"{gen.shape[-2]}; pass grid=(rows, columns)"
            )
        for layer in self.layers:
            sem = layer(sem, gen, self.positions, valid, seeds)
        return sem, None


class SingleMix(nn.Module):
    """One stream alone."""

    def __init__(self, weight: float) -> None:
        """Take the semantic stream (1.0) or the generative one (0.0)."""
        super().__init__()
        self.weight = weight

    def forward(self, gen: Tensor, sem: Tensor, *_: object) -> Fused:
        """Return the stream itself, and its constant gate."""
        stream = sem if self.weight else gen
        return stream, torch.full(
            (*stream.shape[:-1], 1), self.weight, dtype=torch.float32, device=stream.device
        )


class BlindMix(nn.Module):
    """One learned token for every cell: what is left is position, so this is the floor."""

    def __init__(self, dim: int) -> None:
        """Build it."""
        super().__init__()
        self.token = nn.Parameter(torch.zeros(dim))

    def forward(self, gen: Tensor, *_: object) -> Fused:
        """Return the same token everywhere."""
        return self.token.expand(*gen.shape[:-1], -1), None
