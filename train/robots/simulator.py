"""What a simulator of robots offers: reset, observation, step, success.

Letters: H W a camera's image, A numbers of an action, P of the robot's state.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What a policy is shown."""

    images: Mapping[str, UInt8[np.ndarray, "H W 3"]]
    """By camera, upright."""

    proprio: Float32[np.ndarray, " P"]
    """The robot's state, as the demonstrations have it."""


class Simulator(ABC):
    """One suite of tasks; `reset` begins an episode of one."""

    suite: str
    """As `vega3d-benchmark score libero` names it."""

    tasks: tuple[str, ...]
    """Names."""

    max_steps: int
    """Actions of an episode, at most."""

    control_hz: float
    """Actions a second of the simulated world."""

    @abstractmethod
    def reset(self, task: int, episode: int) -> str:
        """Begin an episode, the same for the same numbers; return what is to be done, in words."""

    @abstractmethod
    def observation(self) -> Observation:
        """Return what is seen now."""

    @abstractmethod
    def step(self, action: Float[np.ndarray, " A"]) -> None:
        """Do an action, in the demonstrations' units."""

    @abstractmethod
    def success(self) -> bool:
        """Say whether the task is done."""

    @abstractmethod
    def close(self) -> None:
        """Free the renderer."""
