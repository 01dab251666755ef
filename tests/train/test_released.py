"""The published spatial-reasoning checkpoint, against its equations written out."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vega3d.train import from_released
from vega3d.train.merged import MergedFusion

GEN, INNER, DIM = 6, 10, 8


def published(prefix: str = "model.visual.") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "generative_merger.ln_q.weight": (GEN,),
        "generative_merger.mlp.0.weight": (INNER, 4 * GEN),
        "generative_merger.mlp.0.bias": (INNER,),
        "generative_merger.mlp.2.weight": (DIM, INNER),
        "generative_merger.mlp.2.bias": (DIM,),
        "generative_fusion.norm1.weight": (DIM,),
        "generative_fusion.norm1.bias": (DIM,),
        "generative_fusion.norm2.weight": (DIM,),
        "generative_fusion.norm2.bias": (DIM,),
        "generative_fusion.gate_projection.0.weight": (1, 2 * DIM),
        "generative_fusion.gate_projection.0.bias": (1,),
    }
    state = {
        prefix + name: torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    state[f"{prefix}generative_fusion.residual_scale"] = torch.tensor([0.3])
    return {**state, "model.visual.merger.ln_q.weight": torch.zeros(2)}


def written_out(w: dict[str, np.ndarray], gen: np.ndarray, sem: np.ndarray) -> np.ndarray:
    """Return fused tokens [N, D], float64, one semantic token at a time."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean()) / math.sqrt(x.var() + 1e-5)
        return x * w[f"generative_fusion.{name}.weight"] + w[f"generative_fusion.{name}.bias"]

    fused = []
    cols = gen.shape[1] // 2
    for index, s in enumerate(sem):
        row, col = 2 * (index // cols), 2 * (index % cols)
        four = [gen[row, col], gen[row, col + 1], gen[row + 1, col], gen[row + 1, col + 1]]
        four = [
            token / math.sqrt((token**2).mean() + 1e-6) * w["generative_merger.ln_q.weight"]
            for token in four
        ]
        at = "generative_merger.mlp"
        hidden = w[f"{at}.0.weight"] @ np.concatenate(four) + w[f"{at}.0.bias"]
        hidden = np.array([0.5 * h * (1 + math.erf(h / math.sqrt(2))) for h in hidden])
        g = w[f"{at}.2.weight"] @ hidden + w[f"{at}.2.bias"]
        at = "generative_fusion.gate_projection.0"
        both = np.concatenate([norm(s, "norm1"), norm(g, "norm2")])
        gate = 1 / (1 + np.exp(-(w[f"{at}.weight"] @ both + w[f"{at}.bias"])))
        mixed = gate * s + (1 - gate) * g
        fused.append(s + 0.3 * (mixed - s))
    return np.array(fused)


def test_the_published_weights_compute_what_the_published_code_computes() -> None:
    state = published()
    fusion = from_released(state)
    assert isinstance(fusion, MergedFusion)
    generator = torch.Generator().manual_seed(0)
    gen = torch.randn(2, 4, 6, GEN, generator=generator)
    sem = torch.randn(2, 6, DIM, generator=generator)
    with torch.no_grad():
        fused, gate = fusion(gen, sem)
    assert gate.shape == (2, 6, 1)
    weights = {n.removeprefix("model.visual."): t.double().numpy() for n, t in state.items()}
    for view in range(2):
        want = written_out(weights, gen[view].double().numpy(), sem[view].double().numpy())
        np.testing.assert_allclose(fused[view].numpy(), want, rtol=1e-4, atol=1e-4)


def test_grids_that_do_not_merge_say_so() -> None:
    fusion = from_released(published())
    with pytest.raises(ValueError, match="must be even, got 3 x 6"):
        fusion(torch.zeros(1, 3, 6, GEN), torch.zeros(1, 6, DIM))
    with pytest.raises(ValueError, match="4 x 4 generative tokens merge into 4, and there are 6"):
        fusion(torch.zeros(1, 4, 4, GEN), torch.zeros(1, 6, DIM))
    with pytest.raises(ValueError, match="takes 6 generative and 8 semantic channels, got 6 and 5"):
        fusion(torch.zeros(1, 4, 4, GEN), torch.zeros(1, 4, 5))


def test_a_part_missing_or_unknown_is_named() -> None:
    state = published()
    lacking = {name: value for name, value in state.items() if "mlp.2" not in name}
    with pytest.raises(ValueError, match=r"lacks generative_merger\.mlp\.2\.bias"):
        from_released(lacking)
    without = {name: value for name, value in state.items() if "residual" not in name}
    with pytest.raises(ValueError, match="the share of token_gated_residual"):
        from_released(without)
    name = "model.visual.generative_merger.mlp.0.weight"
    with pytest.raises(ValueError, match="not one of 2 x 2 tokens"):
        from_released({**state, name: torch.zeros(INNER, 9 * GEN)})
