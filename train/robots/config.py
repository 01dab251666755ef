"""Settings of rollouts. Standard library only, so that `--help` stays light."""

from dataclasses import dataclass
from typing import Literal

SUITES = ("picking", "libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """Decides the numbers of a rollout, beside the policy."""

    suite: Literal[
        "picking", "libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"
    ] = "picking"
    """Tasks: a LIBERO suite, or `picking`, the small table of this package."""

    tasks: tuple[int, ...] = ()
    """Numbers of the suite's tasks, from 0; all where left out."""

    episodes: int = 20
    """Episodes of each task; LIBERO's tables have 50."""

    weights: Literal["last", "best", "untrained"] = "last"
    """The run's last weights, the best scored, or those before its first step."""

    open_loop: int = 0
    """Actions of a chunk that are done before the next look; 0 does all, as OpenVLA-OFT."""

    max_steps: int = 0
    """Actions of an episode, at most; 0 is the suite's own limit."""

    seed: int = 1000
    """Of the episodes' beginnings, where the suite does not come with them; demonstrations have
    other ones."""

    videos: int = 1
    """Episodes of each task that are kept as video, from the first."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where encoders and policy run."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.suite not in SUITES:
            raise ValueError(f"suite must be one of {SUITES}, got {self.suite!r}")
        if self.episodes < 1 or min((*self.tasks, 0)) < 0:
            raise ValueError(
                f"episodes must be >= 1 and tasks >= 0, got {self.episodes} and {self.tasks}"
            )
        if min(self.open_loop, self.max_steps, self.seed, self.videos) < 0:
            raise ValueError("open_loop, max_steps, seed and videos must be >= 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class PickingConfig:
    """Decides the demonstrations of `make picking:N`."""

    height: int = 128
    width: int = 160
    seed: int = 0
    noise: float = 0.2
    """Deviation of what is done from what is recorded, in steps of 3 cm."""
    slips: float = 0.05
    """Share of the actions that close or open the cup at the wrong time: without them no frame
    shows what to do with a cup that closed on nothing, or lost its cube."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if min(self.height, self.width) < 16 or self.seed < 0:
            raise ValueError(
                "height and width must be >= 16 and seed >= 0, got "
                f"{self.height}, {self.width} and {self.seed}"
            )
        if not (0 <= self.noise <= 0.5 and 0 <= self.slips <= 0.2):
            raise ValueError(
                f"noise must lie in 0..0.5 and slips in 0..0.2, got {self.noise} and {self.slips}"
            )
