"""How actions and states are normalised, as OpenVLA-OFT does: between their 1 % and 99 % quantiles.

A number that is only ever -1 or 1 is a command, such as LIBERO's gripper (-1 opens, 1 closes). It
is not scaled but turned into 1 open, 0 closed, and what a policy says is cut to -1 or 1. A number
that never changes becomes 0.

Letters: T frames, N numbers of an action or state.

Source: moojink/openvla-oft @ 213c5ff, prismatic/vla/datasets/rlds/utils/data_utils.py,
oxe/transforms.py (libero_dataset_transform), experiments/robot/robot_utils.py.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float32

from vega3d.pipeline.errors import UsageError

_LOW, _HIGH = 0.01, 0.99
_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """The range of every number."""

    q01: tuple[float, ...]
    q99: tuple[float, ...]
    smallest: tuple[float, ...]
    largest: tuple[float, ...]
    command: tuple[bool, ...]
    """True for what is only ever -1 or 1."""

    @classmethod
    def of(cls, tables: Sequence[Float32[np.ndarray, "T N"]], *, commands: bool) -> Self:
        """Return the bounds of all frames together.

        Args:
            tables: One an episode.
            commands: Whether numbers that are only ever -1 or 1 are commands; states have none.
        """
        every = np.concatenate(tables).astype(np.float64)
        is_command = np.atleast_1d(np.isin(every, (-1.0, 1.0)).all(axis=0)) & commands
        low, high = np.quantile(every, (_LOW, _HIGH), axis=0)
        return cls(
            q01=_plain(low),
            q99=_plain(high),
            smallest=_plain(every.min(axis=0)),
            largest=_plain(every.max(axis=0)),
            command=tuple(bool(each) for each in is_command),
        )

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """Return bounds that were saved."""
        try:
            return cls(**{name: tuple(values) for name, values in plain.items()})
        except TypeError as error:
            raise UsageError(f"bounds of actions cannot be understood ({error})") from error

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: list(values) for name, values in asdict(self).items()}

    def normalised(self, values: Float32[np.ndarray, "*T N"]) -> Float32[np.ndarray, "*T N"]:
        """Return numbers in -1..1, commands as 1 open and 0 closed."""
        low, high = np.array(self.q01), np.array(self.q99)
        scaled = np.clip(2 * (values - low) / (high - low + _EPSILON) - 1, -1, 1)
        scaled = np.where(self.command, 1 - np.clip(values, 0, 1), scaled)
        still = np.equal(self.smallest, self.largest) & ~np.array(self.command)
        return np.where(still, 0, scaled).astype(np.float32)

    def restored(self, values: Float32[np.ndarray, "*T N"]) -> Float32[np.ndarray, "*T N"]:
        """Return numbers in their own units, commands as -1 or 1."""
        low, high = np.array(self.q01), np.array(self.q99)
        own = 0.5 * (values + 1) * (high - low + _EPSILON) + low
        command = np.where(values > 0.5, -1.0, 1.0)
        return np.where(self.command, command, own).astype(np.float32)


def _plain(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
