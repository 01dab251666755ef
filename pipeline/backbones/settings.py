"""Words and checks that the settings of all encoders share; standard library only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from vega3d.pipeline.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

DESK = "desk"
"""Name of the small models that come with the package: see desk/README.md."""

Fit = Literal["pad", "crop", "stretch"]
Dtype = Literal["float32", "bfloat16"]
Precision = Literal["float32", "tf32", "bfloat16", "float8"]
"""Of matrix products: `tf32` and `float8` are a GPU's, the latter of linear layers alone."""

BY_DEVICE = {"also": ("auto",), "usual": "bfloat16 on a GPU, float32 on a CPU"}
"""Of a field `dtype`: what a command takes where nothing is said, and keeps in the store."""

Canvas = tuple[int, int]
"""Rows and columns of an encoder's input, px."""

Configs = Mapping[str, Mapping[str, Any]]
"""The config.json of each part of a checkpoint, `.` for its root."""

Prompt = Mapping[str, "np.ndarray"]
"""The arrays that a text-conditioned model gets for its prompt, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What a plan needs to know of a model; from its config.json alone."""

    channels: int
    """Width C of every tap."""

    num_blocks: int
    blocks: tuple[int, ...]
    """The config's blocks, counted from 0."""

    taps: tuple[str, ...]
    token_px: int
    """Side of a token, in px of the encoder's input."""

    auto_tokens: int
    """Tokens of a view that `auto` keeps, whatever the image's aspect."""

    native_px: int = 0
    """Side of the checkpoint's own square input; 0 where it has none."""

    parameters: int
    """Of all that runs: up to the last tap."""

    configs: Configs
    """What all this was read from."""


def auto_canvas(image_height: int, image_width: int, num_tokens: int, token_px: int) -> Canvas:
    """Return the canvas of about `num_tokens` tokens whose aspect is nearest the image's."""
    rows = max(1, round(math.sqrt(num_tokens * image_height / image_width)))
    cols = max(1, round(math.sqrt(num_tokens * image_width / image_height)))
    return token_px * min(rows, num_tokens), token_px * min(cols, num_tokens)


def check_choices(config: object) -> None:
    """Check every field of a dataclass whose type is a Literal."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in (known := get_args(hint)):
            raise ValueError(
                f"{name} must be one of {', '.join(known)}, got {getattr(config, name)!r}"
            )


def check_blocks(blocks: Sequence[int]) -> None:
    """Check that there is a block, and none twice."""
    if not blocks or len(set(blocks)) != len(blocks):
        raise ValueError(f"blocks must be one or more different indices, got {blocks}")


def check_resolution(
    resolution: Canvas | str, words: Sequence[str] = ("auto", "native"), multiple: int = 1
) -> None:
    """Check that a resolution is one of the words or a size that the encoder takes, px."""
    if not isinstance(resolution, tuple):
        if resolution not in words:
            raise ValueError(
                f"resolution must be a size or {' or '.join(words)}, got {resolution!r}"
            )
    elif len(resolution) != 2 or min(resolution) < 1:
        raise ValueError(f"resolution must be rows and columns above 0, got {resolution}")
    elif any(side % multiple for side in resolution):
        rows, cols = (max(1, round(side / multiple)) * multiple for side in resolution)
        raise ValueError(
            f"resolution must be multiples of {multiple}, got {size_text(resolution)}; "
            f"nearest is {size_text((rows, cols))} (width x height)"
        )


def size_text(size: Canvas) -> str:
    """Return rows and columns as people write a size, width first: 832x480."""
    return f"{size[1]}x{size[0]}"


def resolve_blocks(blocks: Sequence[int], num_blocks: int) -> tuple[int, ...]:
    """Return block indices counted from 0; negative ones count from the end."""
    if bad := [block for block in blocks if not -num_blocks <= block < num_blocks]:
        raise UsageError(
            f"blocks must lie in {-num_blocks}..{num_blocks - 1} for this model, got {bad}"
        )
    resolved = tuple(block % num_blocks for block in blocks)
    if len(set(resolved)) != len(resolved):
        raise ValueError(f"blocks {tuple(blocks)} name a block twice: {resolved}")
    return resolved


def block_taps(blocks: Sequence[int]) -> tuple[str, ...]:
    """Name the taps of an encoder without noise: `b25`."""
    return tuple(f"b{block}" for block in blocks)


def tap_name(timestep: int, block: int, sample: int) -> str:
    """Name one tap of a generator; the first noise sample goes without a suffix."""
    return f"k{timestep}_b{block}" + (f"_n{sample}" if sample else "")


def check_noise_settings(timesteps: Sequence[int], noise_seed: int, noise_samples: int) -> None:
    """Check the settings of a generator that is shown noised latents."""
    if not timesteps:
        raise ValueError("a generator needs at least one timestep; the paper's is 300")
    if bad := [k for k in timesteps if not 0 <= k <= 1000]:
        raise ValueError(f"timesteps must lie in 0..1000, got {bad}; sigma 0.3 is timestep 300")
    if len(set(timesteps)) != len(timesteps):
        raise ValueError(f"timesteps must differ from one another, got {tuple(timesteps)}")
    if noise_samples < 1 or not 0 <= noise_seed < 2**63:
        raise ValueError(
            f"noise_samples must be >= 1 and noise_seed in 0..2**63-1, "
            f"got {noise_samples} and {noise_seed}"
        )
