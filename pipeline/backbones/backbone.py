"""A loaded encoder of views: what all families share is written here, once.

A family gives an `Encoder` (`encoder.py`), which turns views into tokens. `Backbone` wraps it: it
checks the views, says where tokens look, cuts a scene into batches, and hands the features back on
the CPU. Letters: V views, h w the encoder's own token grid, C channels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from vega3d.pipeline.backbones.encoder import Encoder, Views
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.gpu_errors import compiler_told
from vega3d.pipeline.backbones.grid import TokenMap, pool_to_grid, pooling_weights
from vega3d.pipeline.backbones.numerics import Numerics, gpu_kernels
from vega3d.pipeline.backbones.on_device import pool_on_device, to_host
from vega3d.pipeline.backbones.settings import Canvas, ModelFacts

Pooled = tuple[dict[str, Float32[np.ndarray, "V gh gw C"]], Float32[np.ndarray, "gh gw"]]
"""Each tap on the common grid, and the share of each cell that is seen."""


class Backbone:
    """A frozen encoder of views; one serves one thread."""

    def __init__(
        self, config: BackboneConfig, facts: ModelFacts, numerics: Numerics, encoder: Encoder
    ) -> None:
        """Wrap a loaded encoder."""
        self.taps = facts.taps
        """Names of what `encode` returns, in order: `k300_b20` for Wan, `b25` for SigLIP."""
        self.channels = facts.channels
        """Width C of every tap."""
        self._config, self._facts, self._numerics = config, facts, numerics
        self._encoder = encoder

    def with_batch_size(self, batch_size: int) -> "Backbone":
        """Return the same encoder, which takes so many views a forward pass."""
        numerics = replace(self._numerics, batch_size=batch_size)
        return Backbone(self._config, self._facts, numerics, self._encoder)

    @property
    def encoder(self) -> Encoder:
        """What computes: for those who measure its parts."""
        return self._encoder

    @property
    def views_at_once(self) -> int | None:
        """Views that go through the encoder together; None: all of a scene."""
        return None if self._encoder.joint else self._numerics.batch_size

    def canvas(self, image_height: int, image_width: int) -> Canvas:
        """Return rows and columns of the input that an image of that size is brought to, px."""
        return self._config.canvas(self._facts, image_height, image_width)

    def token_map(self, image_height: int, image_width: int) -> TokenMap:
        """Say where the tokens of an image of that size look, and how they are pooled."""
        return self._config.token_map(self._facts, image_height, image_width)

    def encode(
        self,
        rgb: UInt8[np.ndarray, "V H W 3"] | None,
        *,
        scene_id: str,
        view_ids: Sequence[str],
        noise: Float32[Tensor, "V ..."] | None = None,
        **given: Float32[Tensor, "V ..."],
    ) -> dict[str, Float32[Tensor, "V h w C"]]:
        """Return each tap's features on the encoder's own token grid, float32 on the CPU.

        Args:
            rgb: Views of one size; None where `latents` take their place.
            scene_id: Enters the noise's key.
            view_ids: One a view, all different; they enter the noise's key.
            noise: Replaces the seeded draw, to compare with other implementations.
            given: Likewise, what a generator would make of the pixels, of the size of its
                `resolution`. `latents`: clean and normalised as the model takes them, [V, z, 1, h,
                w] for Wan and its relatives, [V, z, h, w] for others. `wan2.1-vace` also takes
                `inactive_latents`, `reactive_latents`, `reference_latents` and `mask`: see
                `wan_vace.WanVace`.

        Raises:
            ValueError: The encoder takes no such thing, or there is not one a view.
        """
        self._check_given(given, len(view_ids))
        if rgb is None:
            rgb = self._blank(given)
        passes = self._passes(rgb, scene_id=scene_id, view_ids=view_ids, noise=noise, given=given)
        return self._gathered(((tap, tokens.cpu()) for tap, tokens in passes))

    def encode_pooled(
        self,
        rgb: UInt8[np.ndarray, "V H W 3"],
        grid: tuple[int, int],
        *,
        scene_id: str,
        view_ids: Sequence[str],
    ) -> Pooled:
        """Return each tap's features on the common grid, and the seen share of each cell."""
        return self.begin_pooled(rgb, grid, scene_id=scene_id, view_ids=view_ids)()

    def begin_pooled(
        self,
        rgb: UInt8[np.ndarray, "V H W 3"],
        grid: tuple[int, int],
        *,
        scene_id: str,
        view_ids: Sequence[str],
    ) -> Callable[[], Pooled]:
        """Give views to the model, and return what hands over the result of `encode_pooled`.

        A GPU is given its work and not waited for: who begins the next views before asking for
        these leaves it no pause. There tokens are pooled too, and a hundredth of their bytes comes
        back. On a CPU what is returned pools, in whatever thread calls it.
        """
        height, width = rgb.shape[1:3]
        tokens_at = self.token_map(height, width)
        passes = self._passes(rgb, scene_id=scene_id, view_ids=view_ids)
        if self._numerics.device == "cpu" or tokens_at.pooling != "area":
            tokens = self._gathered(((tap, found.cpu()) for tap, found in passes))
            return partial(_pooled, tokens, tokens_at, (height, width), grid)
        parts = self._gathered(
            (tap, pool_on_device(found, tokens_at, height, width, grid)) for tap, found in passes
        )
        _, _, coverage = pooling_weights(tokens_at, height, width, grid)
        take = to_host(parts)
        return lambda: (take(), coverage)

    def _passes(
        self,
        rgb: UInt8[np.ndarray, "V H W 3"],
        *,
        scene_id: str,
        view_ids: Sequence[str],
        noise: Float32[Tensor, "V ..."] | None = None,
        given: Mapping[str, Float32[Tensor, "V ..."]] | None = None,
    ) -> Iterator[tuple[str, Float32[Tensor, "n h w C"]]]:
        """Yield each tap's tokens of one batch after the other, on the encoder's device."""
        check_views(rgb, view_ids)
        self._check_noise(len(rgb), noise)
        height, width = rgb.shape[1:3]
        views = Views(
            rgb=rgb,
            placement=self._config.placement(self._facts, height, width),
            scene_id=scene_id,
            view_ids=tuple(view_ids),
            device=self._numerics.device,
            batch_size=self._numerics.batch_size,
            given_noise=noise,
            given=given or {},
        )
        self._check_size(views.given, views.canvas)
        dtype = getattr(self._config, "dtype", "float32")
        kernels = gpu_kernels(dtype, self._numerics.device)
        with torch.inference_mode(), kernels, compiler_told():
            for batch in views.batches(self.views_at_once or len(rgb)):
                came = dict.fromkeys(self.taps, 0)
                for tap, found in self._encoder.tokens(batch):
                    tokens = torch.as_tensor(found)
                    came[tap] += len(tokens)  # an encoder may cut what it is given into parts
                    self._check_tokens(tap, tokens, (height, width))
                    yield tap, tokens
                if set(came.values()) != {len(batch)}:
                    raise TypeError(f"{self._config.name} gave {came} of {len(batch)} views")

    def _gathered(self, passes: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Return the batches of each tap as one, in the order of the taps."""
        parts: dict[str, list[Tensor]] = {tap: [] for tap in self.taps}
        for tap, found in passes:
            parts[tap].append(found)
        return {tap: torch.cat(found) for tap, found in parts.items()}

    def _check_noise(self, num_views: int, noise: Tensor | None) -> None:
        if noise is None:
            return
        if not self._config.draws_noise:
            raise ValueError(f"{self._config.name} is no diffusion model: it takes no noise")
        _check_float32("noise", noise)
        if len(noise) != num_views:
            raise ValueError(f"noise must be one a view, got {len(noise)} for {num_views} views")
        if (samples := getattr(self._config, "noise_samples", 1)) != 1:
            raise ValueError(f"given noise is one sample, the backbone has {samples}")

    def _check_given(self, given: Mapping[str, Tensor], num_views: int) -> None:
        takes = self._config.takes
        if unknown := sorted(given.keys() - takes):
            known = f"takes {', '.join(sorted(takes))}" if takes else "looks at pixels alone"
            raise ValueError(f"{self._config.name} {known}; it was given {', '.join(unknown)}")
        for name, values in given.items():
            _check_float32(name, values)
            if len(values) != num_views:
                raise ValueError(
                    f"{name} must be one a view, got {len(values)} for {num_views} views"
                )

    def _check_size(self, given: Mapping[str, Tensor], canvas: Canvas) -> None:
        """Refuse latents of a picture of another size than the encoder's input."""
        for name, values in given.items():
            cells = tuple(values.shape[-2:])
            sides = {side / count for side, count in zip(canvas, cells, strict=True)}
            if len(sides) > 1 or sides.pop() > self._facts.token_px:
                raise ValueError(
                    f"{name} must be of the size of the encoder's resolution, "
                    f"{canvas[1]}x{canvas[0]} px; they are {' x '.join(map(str, cells))} cells"
                )

    def _blank(self, given: Mapping[str, Tensor]) -> UInt8[np.ndarray, "V H W 3"]:
        """Return views that nothing looks at, of the size that given latents are of."""
        if "latents" not in given:
            raise ValueError("without rgb, latents must be given")
        if not isinstance(size := getattr(self._config, "resolution", None), tuple):
            raise ValueError("without rgb, the encoder's resolution must be a size, not a word")
        return np.broadcast_to(np.uint8(0), (len(given["latents"]), *size, 3))

    def _check_tokens(self, tap: str, values: Tensor, size: tuple[int, int]) -> None:
        """Hold the family to its word: planning and pooling believed it."""
        tokens = self.token_map(*size)
        expected = (tokens.rows, tokens.cols, self.channels)
        if tuple(values.shape[1:]) != expected or values.dtype != torch.float32:
            raise TypeError(
                f"{self._config.name} gave {values.dtype} {list(values.shape)} for {tap}, "
                f"its facts say float32 of {list(expected)} a view"
            )


def _check_float32(name: str, values: object) -> None:
    if not isinstance(values, Tensor) or values.dtype != torch.float32:
        kind = getattr(values, "dtype", type(values).__name__)
        raise ValueError(f"{name} must be a float32 tensor of torch, got {kind}")
    if not torch.isfinite(values).all():
        raise ValueError(f"{name} holds numbers that are not finite")


def _pooled(
    tokens: Mapping[str, Float32[Tensor, "V h w C"]],
    tokens_at: TokenMap,
    image_size: tuple[int, int],
    grid: tuple[int, int],
) -> Pooled:
    found = {
        tap: pool_to_grid(values.numpy(), tokens_at, *image_size, grid)
        for tap, values in tokens.items()
    }
    first = next(iter(found))
    return {tap: values for tap, (values, _) in found.items()}, found[first][1]


def check_views(rgb: np.ndarray, view_ids: Sequence[str]) -> None:
    """Check that views are 8-bit RGB of one size, each with an id of its own."""
    if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[3] != 3 or 0 in rgb.shape:
        raise ValueError(
            f"views must be uint8 [V, H, W, 3] of one size, got {rgb.dtype} {list(rgb.shape)}; "
            f"convert to 8-bit RGB, 0 to 255"
        )
    check_view_ids(view_ids, len(rgb))


def check_view_ids(view_ids: Sequence[str], num_views: int) -> None:
    """Check that each view has an id of its own."""
    if len(view_ids) != num_views or len(set(view_ids)) != len(view_ids):
        raise ValueError(
            f"view_ids must name each of the {num_views} views once (equal ids would share noise), "
            f"got {len(view_ids)} ids, {len(set(view_ids))} of them different"
        )
