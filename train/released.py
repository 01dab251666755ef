"""Read the released checkpoints' fusion weights into a `GatedFusion`.

Source of the key names: H-EmbodVis/VEGA-3D @ 9c96924 and branch spatial-reasoning @ ca64583:
`model.generative_projector.{0,2}`, `model.mm_projector.{0,2}`,
`model.feature_fusion.{norm1,norm2,gate_projection.0}`; norm1 is the semantic stream's, and the
gate's input is semantic first where ours is generative first, as in Eq. 7.

The released model projects the semantic tokens on their 27 x 27 grid and pools the result to
14 x 14; feed this fusion tokens pooled before the projector and the two differ by the projector's
curvature within a cell.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from vega3d.train.fusion import GatedFusion

_PARTS = ("generative_projector", "mm_projector", "feature_fusion")
_RENAMED = {
    "generative_projector.0": "project_gen.0",
    "generative_projector.2": "project_gen.2",
    "mm_projector.0": "project_sem.0",
    "mm_projector.2": "project_sem.2",
    "feature_fusion.norm1": "mixer.norm_sem",
    "feature_fusion.norm2": "mixer.norm_gen",
    "feature_fusion.gate_projection.0": "mixer.gate",
}


def from_released(checkpoint: str | Path | Mapping[str, Tensor]) -> GatedFusion:
    """Return the fusion of a released checkpoint: `token_gated`, or its residual form.

    Args:
        checkpoint: A state dict, a .safetensors file, or a folder of them (sharded or not). Other
            weights in it are left alone.

    Raises:
        ValueError: a weight is missing, left over, or of an unknown shape.
    """
    found = dict(checkpoint) if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    state = {name: tensor for key, tensor in found.items() if (name := _short_name(key))}
    renamed: dict[str, Tensor] = {}
    left_over: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem, _, leaf = name.rpartition(".")
        if stem in _RENAMED:
            renamed[f"{_RENAMED[stem]}.{leaf}"] = tensor.float()
        else:
            left_over[name] = tensor
    wanted = {f"{stem}.{leaf}" for stem in _RENAMED for leaf in ("weight", "bias")}
    if missing := sorted(wanted - set(state)):
        raise ValueError(
            f"the checkpoint lacks {', '.join(missing)}; a fusion needs the generative projector, "
            "the mm_projector and feature_fusion, which a LoRA or adapter file may not hold"
        )
    variant = "token_gated"
    if left_over:
        renamed["mixer.share"] = _only_share(left_over)
        variant = "token_gated_residual"
    return _load(renamed, variant)


def _load(state: dict[str, Tensor], variant: str) -> GatedFusion:
    hidden_dim, gen_dim = state["project_gen.0.weight"].shape
    gate = state["mixer.gate.weight"]
    if gate.shape != (1, 2 * hidden_dim):
        raise ValueError(
            f"feature_fusion.gate_projection.0.weight must be (1, {2 * hidden_dim}), a gate per "
            f"token, got {tuple(gate.shape)}; the released channel gate is not supported"
        )
    state["mixer.gate.weight"] = torch.cat([gate[:, hidden_dim:], gate[:, :hidden_dim]], dim=1)
    fusion = GatedFusion(gen_dim, state["project_sem.0.weight"].shape[1], hidden_dim, variant)
    fusion.load_state_dict(state, strict=True)
    return fusion.eval()


def _only_share(left_over: dict[str, Tensor]) -> Tensor:
    (name, share), *others = left_over.items()
    if others or share.numel() != 1 or not name.startswith("feature_fusion."):
        raise ValueError(
            f"do not know {', '.join(sorted(left_over))}; expected at most one number under "
            "feature_fusion, the share of token_gated_residual"
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
