"""Read the released checkpoints' fusion weights.

Source of the key names: H-EmbodVis/VEGA-3D @ 9c96924 (main): `model.generative_projector.{0,2}`,
`model.mm_projector.{0,2}`, `model.feature_fusion.{norm1,norm2,gate_projection.0}`; and branch
spatial-reasoning @ ca64583, the one whose weights are published:
`generative_merger.{ln_q,mlp.0,mlp.2}`, `generative_fusion.*`. norm1 is the semantic stream's, and
the gate's input is semantic first where ours is generative first, as in Eq. 7.

The main branch's model projects the semantic tokens on their 27 x 27 grid and pools the result to
14 x 14; feed this fusion tokens pooled before the projector and the two differ by the projector's
curvature within a cell.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from vega3d.train.fusion import GatedFusion
from vega3d.train.merged import MergedFusion

_PARTS = (
    "generative_projector", "mm_projector", "feature_fusion", "generative_merger",
    "generative_fusion",
)  # fmt: skip
_FUSIONS = ("feature_fusion.", "generative_fusion.")
_PROJECTED = {
    "generative_projector.0": "project_gen.0",
    "generative_projector.2": "project_gen.2",
    "mm_projector.0": "project_sem.0",
    "mm_projector.2": "project_sem.2",
    "feature_fusion.norm1": "mixer.norm_sem",
    "feature_fusion.norm2": "mixer.norm_gen",
    "feature_fusion.gate_projection.0": "mixer.gate",
}
_MERGED = {
    "generative_merger.ln_q": "merger.ln_q",
    "generative_merger.mlp.0": "merger.mlp.0",
    "generative_merger.mlp.2": "merger.mlp.2",
    "generative_fusion.norm1": "mixer.norm_sem",
    "generative_fusion.norm2": "mixer.norm_gen",
    "generative_fusion.gate_projection.0": "mixer.gate",
}
_NO_BIAS = {"generative_merger.ln_q.bias"}  # an RMS norm has none


def from_released(checkpoint: str | Path | Mapping[str, Tensor]) -> GatedFusion | MergedFusion:
    """Return the fusion of a released checkpoint.

    Of the main branch: `token_gated`, or its residual form. Of the spatial-reasoning branch, the
    one whose weights are published: a merger of 2 x 2 generative tokens and the residual form,
    without a projector for the semantic side.

    Args:
        checkpoint: A state dict, a .safetensors file, or a folder of them (sharded or not). Other
            weights in it are left alone.

    Raises:
        ValueError: a weight is missing, left over, or of an unknown shape.
    """
    found = dict(checkpoint) if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    state = {name: tensor for key, tensor in found.items() if (name := _short_name(key))}
    if any(name.startswith("generative_merger.") for name in state):
        return _merged(state)
    renamed, left_over = _rename(state, _PROJECTED, "mm_projector and feature_fusion")
    variant = "token_gated"
    if left_over:
        renamed["mixer.share"] = _only_share(left_over)
        variant = "token_gated_residual"
    return _load(renamed, variant)


def _rename(
    state: dict[str, Tensor], names: Mapping[str, str], parts: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights under our names, and what is left over."""
    wanted = {f"{stem}.{leaf}" for stem in names for leaf in ("weight", "bias")} - _NO_BIAS
    if missing := sorted(wanted - set(state)):
        raise ValueError(
            f"the checkpoint lacks {', '.join(missing)}; a fusion needs the generative projector "
            f"or merger, {parts}, which a LoRA or adapter file may not hold"
        )
    renamed = {}
    for name in wanted:
        stem, _, leaf = name.rpartition(".")
        renamed[f"{names[stem]}.{leaf}"] = state[name].float()
    return renamed, {name: state[name] for name in set(state) - wanted}


def _load(state: dict[str, Tensor], variant: str) -> GatedFusion:
    hidden_dim, gen_dim = state["project_gen.0.weight"].shape
    _swap_gate(state, hidden_dim)
    fusion = GatedFusion(gen_dim, state["project_sem.0.weight"].shape[1], hidden_dim, variant)
    fusion.load_state_dict(state, strict=True)
    return fusion.eval()


def _merged(state: dict[str, Tensor]) -> MergedFusion:
    renamed, left_over = _rename(state, _MERGED, "and generative_fusion")
    if not left_over:
        raise ValueError(
            "the checkpoint lacks the one number under generative_fusion that is the share of "
            "token_gated_residual"
        )
    renamed["mixer.share"] = _only_share(left_over)
    inner_dim, hidden_dim = (
        renamed["merger.mlp.0.weight"].shape[0],
        len(renamed["merger.mlp.2.bias"]),
    )
    _swap_gate(renamed, hidden_dim)
    fusion = MergedFusion(len(renamed["merger.ln_q.weight"]), inner_dim, hidden_dim)
    try:
        fusion.load_state_dict(renamed, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the merger is not one of 2 x 2 tokens and an MLP: {error}") from error
    return fusion.eval()


def _swap_gate(state: dict[str, Tensor], hidden_dim: int) -> None:
    """Put the generative half of the gate's input first, as in Eq. 7."""
    gate = state["mixer.gate.weight"]
    if gate.shape != (1, 2 * hidden_dim):
        raise ValueError(
            f"the fusion's gate_projection.0.weight must be (1, {2 * hidden_dim}), a gate per "
            f"token, got {tuple(gate.shape)}; the released channel gate is not supported"
        )
    state["mixer.gate.weight"] = torch.cat([gate[:, hidden_dim:], gate[:, :hidden_dim]], dim=1)


def _only_share(left_over: dict[str, Tensor]) -> Tensor:
    (name, share), *others = left_over.items()
    if others or share.numel() != 1 or not name.startswith(_FUSIONS):
        raise ValueError(
            f"do not know {', '.join(sorted(left_over))}; expected at most one number under "
            "the fusion, the share of token_gated_residual"
        )
    return share.float().reshape(())


def _short_name(key: str) -> str | None:
    parts = key.split(".")
    for part in _PARTS:
        if part in parts:
            return ".".join(parts[parts.index(part) :])
    return None


def _read(path: Path) -> dict[str, Tensor]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(f"{path} is neither a .safetensors file nor a folder that holds one")
    state: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            state |= {key: opened.get_tensor(key) for key in opened.keys() if _short_name(key)}  # noqa: SIM118 - safe_open has no other way
    return state
