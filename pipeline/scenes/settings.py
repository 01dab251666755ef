"""How a source is understood, as settings; standard library only."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

BadViews = Literal["drop", "fail"]
Sampling = Literal["uniform", "coverage"]
Poses = Literal["opencv", "opengl", "inverse", "opengl-inverse"]
POSES: tuple[Poses, ...] = get_args(Poses)


def check_conventions(poses: str, depth_scale: float) -> None:
    """Raise ValueError unless these are conventions that can be put right."""
    if poses not in POSES:
        raise ValueError(f"poses must be one of {', '.join(POSES)}, got {poses!r}")
    if not (depth_scale > 0 and math.isfinite(depth_scale)):
        raise ValueError(f"depth_scale must be positive and finite, got {depth_scale}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadConfig:
    """How a source is understood, whatever is made of it: `run`, `pack` and `check` take these."""

    bad_views: BadViews = "drop"
    """Views with a damaged or missing file or a camera that cannot be true: drop leaves them out
    and fails a scene where more than half are bad, fail fails a scene with any."""

    poses: Poses = "opencv"
    """What the source's poses are: opencv (x right, y down, z forward) and opengl (x right, y up, z
    backward) are camera-to-world, inverse and opengl-inverse world-to-camera; see `check`."""

    depth_scale: float = 1.0
    """Factor that turns the source's depth, as its layout has it, into metres; see `check`."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.bad_views not in (known := get_args(BadViews)):
            raise ValueError(f"bad_views must be one of {', '.join(known)}, got {self.bad_views!r}")
        check_conventions(self.poses, self.depth_scale)
