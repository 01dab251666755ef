"""What goes through an encoder, and what comes back: the inner half of a backbone.

Letters: n views that go through together, H W the images, h w the encoder's own token grid,
C channels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from vega3d.pipeline.backbones.grid import Placement, place
from vega3d.pipeline.backbones.noise import view_noise
from vega3d.pipeline.backbones.on_device import place_on_device
from vega3d.pipeline.backbones.settings import Canvas

HALF = (0.5, 0.5, 0.5)

_PLACED = 16
"""Views that a GPU resizes at once, in float64: 80 MB each from 1296x968 to 640x480."""

_DRAWING = 4
"""Threads that draw the noise of a batch, 1.4 ms a view and timestep each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """Views that go through an encoder together."""

    rgb: UInt8[np.ndarray, "n H W 3"]
    placement: Placement
    scene_id: str
    view_ids: tuple[str, ...]
    device: str
    batch_size: int
    """Views of a forward pass, where an encoder sees all of a scene and cuts it itself."""

    given_noise: Float32[Tensor, "n ..."] | None = None
    given: Mapping[str, Float32[Tensor, "n ..."]] = field(default_factory=dict)
    """What takes the place of something that the pixels would give: `latents` and the like."""

    def __len__(self) -> int:
        """Return how many views there are."""
        return len(self.rgb)

    @property
    def canvas(self) -> Canvas:
        """Rows and columns of the encoder's input, px."""
        return self.placement.canvas

    def placed(self) -> UInt8[np.ndarray, "n rows cols 3"]:
        """Return the views on the canvas, 8-bit RGB."""
        return place(self.rgb, self.placement)

    def pixels(
        self, mean: Sequence[float] = HALF, std: Sequence[float] = HALF
    ) -> Float32[Tensor, "n 3 rows cols"]:
        """Return the views on the canvas, normalised; in [-1, 1] with the defaults."""
        if self.device == "cpu":
            placed = torch.from_numpy(self.placed())
        else:
            uploads = (to_device(some.rgb, self.device) for some in self.batches(_PLACED))
            pieces = [place_on_device(upload, self.placement) for upload in uploads]
            placed = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        scale, offset = _normalisation(tuple(mean), tuple(std), self.device)
        return placed.permute(0, 3, 1, 2).float() / scale - offset

    def latents(
        self, encode: Callable[[Float32[Tensor, "n 3 rows cols"]], Tensor]
    ) -> Float32[Tensor, "n ..."]:
        """Return each view's latent: what was given, else what a VAE makes of the pixels."""
        if (held := self.taken("latents")) is not None:
            return held
        return encode(self.pixels())

    def taken(self, name: str) -> Float32[Tensor, "n ..."] | None:
        """Return what was given by that name, on the encoder's device; None where nothing was."""
        return self.given[name].to(self.device) if name in self.given else None

    def noise(
        self, noise_seed: int, timestep: int, sample: int, shape: tuple[int, ...]
    ) -> Float32[Tensor, "n ..."]:
        """Return each view's own noise of a shape: what was given, else the draw of its key."""
        if self.given_noise is not None:
            if tuple(self.given_noise.shape[1:]) != shape:
                raise ValueError(
                    f"noise must be [V, {', '.join(map(str, shape))}] for this input, "
                    f"got {list(self.given_noise.shape)}"
                )
            return self.given_noise.to(self.device)
        draw = partial(_draw, noise_seed, self.scene_id, timestep, sample, shape)
        if self.device == "cpu":
            return torch.from_numpy(np.stack([draw(view_id) for view_id in self.view_ids]))
        # A GPU is at the latents meanwhile; numpy draws without Python's lock.
        return to_device(np.stack(list(_drawing().map(draw, self.view_ids))), self.device)

    def select(self, indices: Sequence[int]) -> "Views":
        """Return some of the views, in the order given."""
        noise = self.given_noise
        run = _is_run(indices) and self.rgb.flags.writeable  # torch wants no array that is not
        some = slice(indices[0], indices[-1] + 1) if run else list(indices)
        return replace(
            self,
            rgb=self.rgb[some],
            view_ids=tuple(self.view_ids[index] for index in indices),
            given_noise=None if noise is None else noise[some],
            given={name: values[some] for name, values in self.given.items()},
        )

    def batches(self, size: int) -> Iterator["Views"]:
        """Yield the views in order, so many at a time."""
        for start in range(0, len(self), size):
            yield self.select(range(start, min(start + size, len(self))))


def _is_run(indices: Sequence[int]) -> bool:
    return isinstance(indices, range) and indices.step == 1 and len(indices) > 0


def _draw(
    noise_seed: int, scene_id: str, timestep: int, sample: int, shape: tuple[int, ...], view_id: str
) -> Float32[np.ndarray, "..."]:
    return view_noise(noise_seed, scene_id, view_id, timestep, sample, shape)


@cache
def _drawing() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_DRAWING, thread_name_prefix="noise")


def to_device(values: np.ndarray, device: str) -> Tensor:
    """Return an array on a device; a GPU takes it from pinned memory while it works on."""
    here = torch.from_numpy(np.ascontiguousarray(values))
    return here if device == "cpu" else here.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=16)
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], device: str
) -> tuple[Float32[Tensor, "3 1 1"], Float32[Tensor, "3 1 1"]]:
    spread = torch.tensor(std).view(3, 1, 1)
    offset = torch.tensor(mean).view(3, 1, 1) / spread
    return (255 * spread).to(device), offset.to(device)


class Encoder(Protocol):
    """What a family's `load` returns."""

    joint: bool
    """Views of a scene attend to one another: all of them come at once."""

    def tokens(self, views: Views) -> Iterable[tuple[str, Float32[Tensor | np.ndarray, "n h w C"]]]:
        """Yield each tap's name and its tokens, float32, on any device, of torch or numpy."""
        ...
