"""Loading published tensors into modules of ours, where no library has the class.

As strict as `weights`: a tensor of the files is taken, or named as one that is not needed, and what
is missing, left over or misshapen is an error that says so. What is only checked is not read.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vega3d.pipeline.errors import CheckpointError

_TYPES = ("F32", "BF16", "F16")


def read_into(
    module: nn.Module,
    folder: Path,
    *,
    prefix: str,
    renamed: Mapping[str, str] | None = None,
    unread: re.Pattern[str],
    files: re.Pattern[str] = re.compile(r".+\.safetensors"),
    needed: Callable[[str], bool] = lambda _: True,
) -> nn.Module:
    """Return a module on the meta device with its tensors from a folder's safetensors, float32.

    Args:
        module: With every parameter that the files hold, but for the unread.
        folder: Of the checkpoint.
        prefix: What the files put in front of the module's names.
        renamed: Part of a name in the files -> what it is in the module.
        unread: Tensors of the files that the module has no use for.
        files: Names of those that are read.
        needed: Which of the module's are read; the others are checked, and stay on meta.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape or type.
    """
    expected = module.state_dict()
    names = {name_in_files(name, prefix, renamed or {}): name for name in expected}
    found: dict[str, Tensor] = {}
    wrong: dict[str, list[str]] = {"unexpected": [], "of another shape": [], "of another type": []}
    for path in sorted(path for path in folder.iterdir() if files.fullmatch(path.name)):
        try:
            with safe_open(path, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - not iterable itself
                    if name := names.get(key, ""):
                        wanted = expected[name]
                        found[name], fault = _taken(opened, key, wanted, needed(name))
                    else:
                        fault = "" if unread.fullmatch(key) else "unexpected"
                    if fault:
                        wrong[fault].append(key)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
    wrong["missing"] = [key for key, name in names.items() if name not in found]
    if any(wrong.values()):
        told = "; ".join(
            f"{kind}: {sorted(keys)[:5]} ({len(keys)} in all)"
            for kind, keys in wrong.items()
            if keys
        )
        raise CheckpointError(f"{folder}: the weights do not fit: {told}")
    module.load_state_dict(found, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def name_in_files(name: str, prefix: str, renamed: Mapping[str, str]) -> str:
    """Return what the files call a tensor of the module; see `read_into`."""
    back = {ours: theirs for theirs, ours in renamed.items()}
    return prefix + ".".join(back.get(part, part) for part in name.split("."))


def _taken(opened: Any, key: str, wanted: Tensor, needed: bool) -> tuple[Tensor, str]:  # noqa: ANN401
    """Return a tensor of a file in float32, or the one on meta, and what is wrong with it."""
    piece = opened.get_slice(key)
    if tuple(piece.get_shape()) != tuple(wanted.shape):
        return wanted, "of another shape"
    if piece.get_dtype() not in _TYPES:
        return wanted, "of another type"
    # Copied: mapped from the file, tensors lie at any address, and kernels choose by alignment.
    return (opened.get_tensor(key).float().clone() if needed else wanted), ""
