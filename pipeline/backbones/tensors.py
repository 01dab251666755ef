"""Loading published tensors into modules of ours, where no library has the class.

As strict as `weights`: a tensor of the files is taken, or named as one that is not needed, and what
is missing, left over or misshapen is an error that says so. What is only checked is not read.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vega3d.pipeline.errors import CheckpointError

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def read_into(
    module: nn.Module,
    folder: Path,
    *,
    prefix: str,
    renamed: Mapping[str, str] | None = None,
    unread: re.Pattern[str],
    needed: Callable[[str], bool] = lambda _: True,
) -> nn.Module:
    """Return a module on the meta device with its tensors from a folder's safetensors, float32.

    Args:
        module: With every parameter that the files hold, but for the unread.
        folder: Of the checkpoint.
        prefix: What the files put in front of the module's names.
        renamed: Part of a name in the files -> what it is in the module.
        unread: Tensors of the files that the module has no use for.
        needed: Which of the module's are read; the others are checked, and stay on meta.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape or type.
    """
    expected = module.state_dict()
    names = {_in_files(name, prefix, renamed or {}): name for name in expected}
    found: dict[str, Tensor] = {}
    wrong: dict[str, list[str]] = {"unexpected": [], "of another shape": [], "of another type": []}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - not iterable itself
                    name = names.get(key, "")
                    if not name:
                        if not unread.fullmatch(key):
                            wrong["unexpected"].append(key)
                        continue
                    piece = opened.get_slice(key)
                    if tuple(piece.get_shape()) != tuple(expected[name].shape):
                        wrong["of another shape"].append(key)
                    elif needed(name):
                        found[name] = opened.get_tensor(key)
                        if found[name].dtype not in _TYPES:
                            wrong["of another type"].append(key)
                    else:
                        found[name] = expected[name]
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
    misfits = {key for keys in wrong.values() for key in keys}
    wrong["missing"] = [k for k, name in names.items() if name not in found and k not in misfits]
    if any(wrong.values()):
        told = "; ".join(
            f"{kind}: {sorted(keys)[:5]} ({len(keys)} in all)"
            for kind, keys in wrong.items()
            if keys
        )
        raise CheckpointError(f"{folder}: the weights do not fit: {told}")
    # Copied: mapped from the file, tensors lie at any address, and kernels choose by alignment.
    held = {
        name: value if value.is_meta else value.float().clone() for name, value in found.items()
    }
    module.load_state_dict(held, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def _in_files(name: str, prefix: str, renamed: Mapping[str, str]) -> str:
    back = {ours: theirs for theirs, ours in renamed.items()}
    return prefix + ".".join(back.get(part, part) for part in name.split("."))
