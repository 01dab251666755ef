"""What a demonstration of any layout becomes: numbers by frame, and an instruction.

Letters: T frames, A numbers of an action, P numbers of the robot's own state.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from vega3d.pipeline.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One demonstration."""

    scene_id: str
    """As the reader of its frames names it."""

    text: str
    """What the robot was told to do; empty where the file does not say."""

    actions: Float32[np.ndarray, "T A"]
    """One a frame, in the file's own units."""

    proprio: Float32[np.ndarray, "T P"]
    """The robot's own state at each frame; P = 0 where the file has none."""

    action_names: tuple[str, ...]
    """One a number."""


def as_table(values: np.ndarray, where: str) -> Float32[np.ndarray, "T N"]:
    """Return numbers by frame as float32.

    Raises:
        UsageError: They are no table, or one is not finite.
    """
    table = np.asarray(values)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.dtype.kind not in "fiub":
        raise UsageError(f"{where} must be numbers [T, N], got {table.dtype} {list(table.shape)}")
    found = table.astype(np.float32)
    if not np.isfinite(found).all():
        row = int(np.argwhere(~np.isfinite(found))[0][0])
        raise UsageError(f"{where} is not finite at frame {row}")
    return found
