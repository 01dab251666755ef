"""What a checkpoint's own processor does to the pixels: the mean and the spread it takes out.

The size is ours (`Placement`), the numbers are the checkpoint's. No torch here.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vega3d.pipeline.backbones.checkpoints import read_config
from vega3d.pipeline.errors import CheckpointError

FILES = ("preprocessor_config.json", "video_preprocessor_config.json")
"""Where processors of images and of videos keep their numbers; the first that is there is read."""

Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of R, G, B in [0, 1]."""

HALVES: Statistics = ((0.5,) * 3, (0.5,) * 3)
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Source: transformers, image_utils.py: IMAGENET_STANDARD_*, IMAGENET_DEFAULT_*, OPENAI_CLIP_*."""


def image_statistics(
    folder: Path, usual: Statistics = HALVES
) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and std of R, G, B that a checkpoint's processor subtracts and divides by.

    Args:
        folder: Of the checkpoint.
        usual: What the family's checkpoints have, where the file does not say.

    Raises:
        CheckpointError: The file holds no such numbers, or pixels are not brought to [0, 1].
    """
    path, config = _processor(folder)
    _check_scale(path, config.get("rescale_factor", 1 / 255))
    if config.get("do_normalize") is False:
        return [0.0] * 3, [1.0] * 3
    names = ("image_mean", "image_std")
    return checked_statistics(
        path, *(config.get(name, given) for name, given in zip(names, usual, strict=True))
    )


def checked_statistics(path: Path, *given: Any) -> tuple[list[float], list[float]]:  # noqa: ANN401
    """Return mean and std as three numbers each; raises CheckpointError where they are none."""
    try:
        mean, std = (
            [float(x) for x in (v if isinstance(v, list | tuple) else [v] * 3)] for v in given
        )
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean)) or min(std) <= 0:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: image_mean and image_std: three each, got {list(given)}"
        ) from error
    return mean, std


def check_steps(folder: Path, **known: int) -> None:
    """Check that a checkpoint's processor cuts images as its class does; raises CheckpointError."""
    path, config = _processor(folder)
    for name, step in known.items():
        if config.get(name, step) != step:
            raise CheckpointError(f"{path}: {name} must be {step}, found {config[name]!r}")


def _processor(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the processor's file and what it holds; {} where there is none."""
    path = next((p for p in (folder / name for name in FILES) if p.is_file()), folder / FILES[0])
    return path, read_config(folder, ".", path.name) if path.is_file() else {}


def _check_scale(path: Path, factor: Any) -> None:  # noqa: ANN401 - plain JSON
    if not isinstance(factor, int | float) or abs(factor * 255 - 1) > 1e-3:
        raise CheckpointError(
            f"{path}: rescale_factor is {factor!r}; encoders here take values in [0, 1], 1/255"
        )
