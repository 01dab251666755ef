"""What a source's poses and depth may mean, as settings; standard library only."""

import math
from typing import Literal, get_args

BadViews = Literal["drop", "fail"]
Poses = Literal["opencv", "opengl", "inverse", "opengl-inverse"]
POSES: tuple[Poses, ...] = get_args(Poses)


def check_conventions(poses: str, depth_scale: float) -> None:
    """Raise ValueError unless these are conventions that can be put right."""
    if poses not in POSES:
        raise ValueError(f"poses must be one of {', '.join(POSES)}, got {poses!r}")
    if not (depth_scale > 0 and math.isfinite(depth_scale)):
        raise ValueError(f"depth_scale must be positive and finite, got {depth_scale}")
