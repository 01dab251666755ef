"""Files of a run, written so that a kill at any moment leaves the old one or the new one."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vega3d.pipeline.errors import UsageError

CHECKPOINT = "checkpoint.pt"
_PARTIAL = ".partial"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, make it durable, and give it the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove what writers left that were killed in the middle; no other may write there now."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write a JSON file atomically."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def save_state(run_dir: Path, state: dict[str, Any]) -> None:
    """Write all that a resumed run needs."""
    write_atomically(run_dir / CHECKPOINT, lambda temporary: torch.save(state, temporary))


def load_state(run_dir: Path, device: torch.device) -> dict[str, Any] | None:
    """Return what `save_state` wrote last, None where it never did."""
    path = run_dir / CHECKPOINT
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's weights as safetensors."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    write_atomically(path, lambda temporary: temporary.write_bytes(save(state)))


def load_weights(path: Path, model: nn.Module) -> None:
    """Read a model's weights; raises UsageError where they are not of this model."""
    if not path.exists():
        raise UsageError(f"{path} does not exist; the run may not have scored anything yet")
    state: dict[str, Tensor] = load_file(path)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wanted != found:
        differing = sorted(dict(wanted.items() ^ found.items()))
        raise UsageError(f"{path} holds other weights than the run's config: {differing[:5]}")
    model.load_state_dict(state, strict=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
