"""The prompt that a user gives: an array, or a file of what a pipeline's `encode_prompt` returns.

One file for each kind of pipeline, its tensors called as `encode_prompt` names them:
`prompt_embeds` everywhere, `pooled_prompt_embeds` for FLUX and HunyuanVideo,
`prompt_attention_mask` for those that tell padding by a mask (LTX-Video, HunyuanVideo).
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError

from vega3d.pipeline.backbones.settings import Prompt
from vega3d.pipeline.errors import CheckpointError, UsageError

ROWS, POOLED, MASK = "prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask"

Kept = Literal["all", "filled", "masked"]
"""Which rows of a file the transformer reads: all, padding too; those before the zero rows that
pad them; those that the mask names."""


def given_prompt(
    given: np.ndarray | str | Path, *, kept: Kept = "all", pooled: bool = False, num_rows: int = 0
) -> Prompt:
    """Return the prompt's arrays, float32: `prompt_embeds` [L, D] and what goes with it.

    Args:
        given: Rows as the transformer reads them, or a safetensors file.
        kept: Which rows of a file are read.
        pooled: The model reads a pooled row too, so that an array is not enough.
        num_rows: That `prompt_embeds` must have; 0 for any.

    Raises:
        UsageError: It is an array where more is needed, or has another number of rows.
        CheckpointError: The file lacks a tensor, or a number in it is not finite.
    """
    if isinstance(given, np.ndarray):
        if pooled:
            raise UsageError(f"this model reads {POOLED} too: give a file that holds both")
        found: Prompt = {ROWS: np.ascontiguousarray(given, np.float32)}
    else:
        found = read_prompt(Path(given), kept=kept, pooled=pooled)
    if num_rows and len(found[ROWS]) != num_rows:
        raise UsageError(
            f"prompt_embeds of this model must be {num_rows} rows, padding too, "
            f"got {len(found[ROWS])}"
        )
    return found


def read_prompt(path: Path, *, kept: Kept, pooled: bool = False) -> dict[str, np.ndarray]:
    """Return what a .safetensors file holds of a prompt; see `given_prompt`.

    Pipelines save [1, L, D], in bfloat16 or float16.
    """
    from safetensors.torch import load_file  # numpy has no bfloat16

    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: a prompt embedding must be a .safetensors file (pickles are never loaded); "
            "save what the pipeline's encode_prompt returns with safetensors.torch.save_file"
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable .safetensors file: {error}") from error
    rows = _numbers(path, tensors, ROWS, 2, "[L, D]")
    if kept == "filled":
        real = np.flatnonzero(rows.any(axis=1))
        # One row stays: a model may have been trained with a prompt of zeros, as the desk model is.
        rows = rows[: real[-1] + 1 if len(real) else 1]
    elif kept == "masked":
        mask = _mask(path, tensors, len(rows))
        rows = rows[mask]
    found = {ROWS: np.ascontiguousarray(rows)}
    if pooled:
        found[POOLED] = _numbers(path, tensors, POOLED, 1, "[D]")
    return found


def _numbers(
    path: Path,
    tensors: Any,  # noqa: ANN401 - of torch, by name
    name: str,
    dims: int,
    shape: str,
) -> Float32[np.ndarray, "..."]:
    """Return one tensor of a file without the batch of one in front."""
    values = tensors.get(name)
    if values is not None and values.ndim == dims + 1 and len(values) == 1:
        values = values[0]
    if values is None or values.ndim != dims or not values.is_floating_point():
        batched = shape.replace("[", "[1, ")
        raise CheckpointError(
            f"{path}: must hold {name}, floats {shape} or {batched}; found {_found(tensors)}"
        )
    found: np.ndarray = values.float().numpy()
    rows = found.reshape(-1, found.shape[-1])
    if bad := np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist():
        raise CheckpointError(
            f"{path}: row {bad[0]} of {name} ({len(bad)} of {len(rows)}) holds NaN or "
            "infinity; encode the prompt again, in bfloat16 or float32"
        )
    return found


def _mask(path: Path, tensors: Any, num_rows: int) -> np.ndarray:  # noqa: ANN401 - of torch
    """Return which rows are the prompt's own."""
    values = tensors.get(MASK)
    if values is None or values.numel() != num_rows:
        raise CheckpointError(
            f"{path}: must hold {MASK} [{num_rows}] too, as encode_prompt returns it: this model "
            f"reads no padding; found {_found(tensors)}"
        )
    found: np.ndarray = values.reshape(-1).numpy().astype(bool)
    if not found.any():
        raise CheckpointError(f"{path}: {MASK} names no row; an empty prompt has one at least")
    return found


def _found(tensors: Any) -> dict[str, tuple[str, list[int]]]:  # noqa: ANN401 - of torch
    return {key: (str(value.dtype), list(value.shape)) for key, value in tensors.items()}
