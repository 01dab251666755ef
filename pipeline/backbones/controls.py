"""Encoders without weights: what a report should be better than.

`rgb` is each patch's mean colour, `position` a sinusoid of where the token looks in the image, and
`random` noise of its own for each token of each view. Letters: n views, h w tokens, C channels.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import (
    Canvas,
    Configs,
    Fit,
    ModelFacts,
    Prompt,
    check_choices,
    check_resolution,
)

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Encoder, Views

TOKEN_PX = 16
"""Side of a token, as Wan's."""

FREQUENCIES = 16
"""Of the sinusoid along each axis: from half a turn over the image on, two to the octave."""

RANDOM_CHANNELS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlConfig(BackboneConfig):
    """Settings of an encoder without weights."""

    channels: ClassVar[int]

    tap: ClassVar[str]
    """Name of the one tap."""

    resolution: tuple[int, int] | Literal["auto"] = (480, 640)
    """Rows and columns of the input, px; `auto` keeps each image's aspect at about the token count
    of 480x832."""

    fit: Fit = "pad"
    """How an image of another aspect gets there: pad (all of it is seen), crop, stretch."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        check_resolution(self.resolution, words=("auto",), multiple=TOKEN_PX)

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know; there is no model to ask."""
        return ModelFacts(
            channels=self.channels,
            num_blocks=1,
            blocks=(0,),
            taps=(self.tap,),
            token_px=TOKEN_PX,
            auto_tokens=1560,
            parameters=0,
            configs=configs,
        )

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count about one operation a pixel and value; nothing beside any network."""
        return float(canvas[0] * canvas[1] * facts.channels)

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the encoder; there is nothing to load."""
        return Control(self)

    @abstractmethod
    def values(self, views: "Views") -> "Float32[np.ndarray, 'n h w C'] | Tensor":
        """Return the tokens of some views."""


class Control:
    """An encoder that its settings compute."""

    joint = False

    def __init__(self, config: ControlConfig) -> None:
        """Take the settings."""
        self._config = config

    def tokens(
        self, views: "Views"
    ) -> "Iterator[tuple[str, Float32[np.ndarray | Tensor, 'n h w C']]]":
        """Yield the one tap."""
        yield self._config.tap, self._config.values(views)


@dataclass(frozen=True, kw_only=True, slots=True)
class RgbConfig(ControlConfig):
    """Settings of the mean colour of each patch."""

    name: ClassVar[str] = "rgb"
    tap: ClassVar[str] = "mean_rgb"
    channels: ClassVar[int] = 3

    def values(self, views: "Views") -> "Float32[np.ndarray, 'n h w 3']":
        """Return mean colours in [-1, 1]."""
        import numpy as np

        placed: np.ndarray = views.placed().astype(np.float32) / 127.5 - 1
        rows, cols = placed.shape[1] // TOKEN_PX, placed.shape[2] // TOKEN_PX
        patches = placed.reshape(len(views), rows, TOKEN_PX, cols, TOKEN_PX, 3)
        means: np.ndarray = patches.mean(axis=(2, 4))
        return means


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionConfig(ControlConfig):
    """Settings of the sinusoid of a token's place in the image, which knows no pixel."""

    name: ClassVar[str] = "position"
    tap: ClassVar[str] = "position"
    channels: ClassVar[int] = 4 * FREQUENCIES

    def values(self, views: "Views") -> "Float32[np.ndarray, 'n h w C']":
        """Return sines and cosines of row and of column, as shares of the image's sides."""
        import numpy as np

        looks = views.placement.token_map(TOKEN_PX)
        height, width = views.rgb.shape[1:3]
        row = (np.arange(looks.rows) + 0.5 - looks.offset_row) / looks.scale_row / height
        col = (np.arange(looks.cols) + 0.5 - looks.offset_col) / looks.scale_col / width
        shape = (looks.rows, looks.cols, 2 * FREQUENCIES)
        by_row = np.broadcast_to(_waves(row)[:, None], shape)
        by_col = np.broadcast_to(_waves(col)[None], shape)
        grid = np.concatenate([by_row, by_col], axis=-1).astype(np.float32)
        return np.tile(grid, (len(views), 1, 1, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomConfig(ControlConfig):
    """Settings of fixed noise a token, which knows neither pixel nor place."""

    name: ClassVar[str] = "random"
    tap: ClassVar[str] = "random"
    channels: ClassVar[int] = RANDOM_CHANNELS
    draws_noise: ClassVar[bool] = True

    noise_seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        """Check every field once."""
        ControlConfig.__post_init__(self)
        if not 0 <= self.noise_seed < 2**63:
            raise ValueError(f"noise_seed must lie in 0..2**63-1, got {self.noise_seed}")

    def values(self, views: "Views") -> "Float32[Tensor, 'n h w C']":
        """Return standard normal values, each view's from its own key."""
        rows, cols = (side // TOKEN_PX for side in views.canvas)
        return views.noise(self.noise_seed, 0, 0, (rows, cols, self.channels))


def _waves(share: "np.ndarray") -> "np.ndarray":
    import numpy as np

    turns = share[:, None] * 2.0 ** (np.arange(FREQUENCIES) / 2)
    return np.concatenate([np.sin(np.pi * turns), np.cos(np.pi * turns)], axis=-1)
