"""Wan2.1's VAE encoder for videos, some frames at a time: what it remembers is one call's own.

The first frame goes alone, then four at a time, as the class takes them; of each causal convolution
the last two frames that went in are kept for the next piece. Where zeros lie before the first
frame, the kernel's slices that would be multiplied with them are left out. The 1x1x1 convolution
that makes the posterior is folded into the last one, its mean half alone, as in `wan_frames`.
Letters: B videos, T frames of a piece, t latent frames, z latent channels, C channels.

Source: diffusers, autoencoder_kl_wan.py (AutoencoderKLWan._encode and the layers' caches).
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from vega3d.pipeline.backbones.wan_frames import Attention, ChannelNorm, Half, mean_half
from vega3d.pipeline.errors import CheckpointError

_PIECE = 4
"""Frames that become one latent frame."""

Past = dict[nn.Module, Tensor]
"""What each causal convolution saw last, of one video."""


class ClipEncoder(nn.Module):
    """Encoder of videos of 4k + 1 frames; equal to the VAE's `encode(...).mode()`.

    Nothing is kept on it while it encodes: threads may share one.
    """

    def __init__(self, vae: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
        """Rewrite the weights of an AutoencoderKLWan; raises CheckpointError for Wan2.2's."""
        super().__init__()
        encoder = vae.encoder
        if vae.config.get("is_residual") or vae.config.get("patch_size") is not None:
            raise CheckpointError("a VAE with residual downsampling or patches is Wan2.2's")
        middle = encoder.mid_block
        self.first = _Causal(encoder.conv_in.weight, encoder.conv_in.bias)
        self.layers = nn.ModuleList(
            [
                *(_layer(block) for block in encoder.down_blocks),
                _Residual(middle.resnets[0]),
                _Each(Attention(middle.attentions[0])),
                _Residual(middle.resnets[1]),
            ]
        )
        self.norm = ChannelNorm(encoder.norm_out)
        self.last = _Causal(*mean_half(encoder.conv_out, vae.quant_conv, vae.config.z_dim))
        self.requires_grad_(False).eval()

    def forward(self, video: Float32[Tensor, "B 3 T H W"]) -> Float32[Tensor, "B z t H/8 W/8"]:
        """Return the posterior's mean of each latent frame, not yet normalised."""
        past: Past = {}
        return torch.cat([self._encode(piece, past) for piece in pieces_of(video)], dim=2)

    def _encode(self, x: Float32[Tensor, "B 3 T H W"], past: Past) -> Tensor:
        x = self.first(x, past)
        for layer in self.layers:
            x = layer(x, past)
        found: Tensor = self.last(_activated(self.norm, x), past)
        return found


class _Causal(nn.Module):
    """A convolution over a frame and those before it."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        # As the maps lie in memory, channels last.
        copied = weight.detach().clone(memory_format=torch.channels_last_3d)
        self.weight, self.bias = nn.Parameter(copied), nn.Parameter(bias.detach().clone())
        self.depth = weight.shape[2]
        self.padding = (0, weight.shape[3] // 2, weight.shape[4] // 2)

    def forward(self, x: Float32[Tensor, "B C T h w"], past: Past) -> Float32[Tensor, "B D T h w"]:
        if self.depth == 1:
            return self._convolved(x, self.weight)
        before = past.get(self)
        seen = x if before is None else torch.cat([before, x], dim=2)
        past[self] = seen[:, :, 1 - self.depth :].clone()  # a view would hold the whole piece
        begun = seen.shape[2] - x.shape[2]
        # The first outputs have fewer frames before them than the kernel is deep.
        outputs = [
            self._convolved(seen[:, :, : at + 1], self.weight[:, :, self.depth - 1 - at :])
            for at in range(begun, min(self.depth - 1, seen.shape[2]))
        ]
        if seen.shape[2] >= self.depth:
            outputs.append(self._convolved(seen, self.weight))
        return torch.cat(outputs, dim=2)

    def _convolved(self, seen: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.conv3d(seen, weight, self.bias, padding=self.padding)


class _HalfTime(nn.Module):
    """Halving of the side and of the frames; the first frame has none before it and stays."""

    def __init__(self, block: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
        super().__init__()
        self.side = Half(block)
        self.weight = nn.Parameter(block.time_conv.weight.detach().clone())
        self.bias = nn.Parameter(block.time_conv.bias.detach().clone())

    def forward(self, x: Float32[Tensor, "B C T h w"], past: Past) -> Tensor:
        x = _each(self.side, x)
        before, past[self] = past.get(self), x[:, :, -1:].clone()
        if before is None:
            return x
        seen = torch.cat([before, x], dim=2)
        return nn.functional.conv3d(seen, self.weight, self.bias, (2, 1, 1))


class _Residual(nn.Module):
    def __init__(self, block: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(block.norm1), _causal(block.conv1)
        self.norm2, self.conv2 = ChannelNorm(block.norm2), _causal(block.conv2)
        plain = isinstance(block.conv_shortcut, nn.Identity)
        self.shortcut = None if plain else _causal(block.conv_shortcut)

    def forward(self, x: Float32[Tensor, "B C T h w"], past: Past) -> Tensor:
        inner = self.conv1(_activated(self.norm1, x), past)
        inner = self.conv2(_activated(self.norm2, inner), past)
        found: Tensor = inner + (x if self.shortcut is None else self.shortcut(x, past))
        return found


class _Each(nn.Module):
    """A layer of single frames, for each frame."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Float32[Tensor, "B C T h w"], _: Past) -> Tensor:
        return _each(self.layer, x)


def _each(layer: nn.Module, x: Float32[Tensor, "B C T h w"]) -> Float32[Tensor, "B D T k l"]:
    frames = layer(x.transpose(1, 2).flatten(0, 1))
    found: Tensor = frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    return found


def _activated(norm: nn.Module, x: Float32[Tensor, "B C T h w"]) -> Float32[Tensor, "B C T h w"]:
    return nn.functional.silu(_each(norm, x))


def pieces_of(video: Float32[Tensor, "B c T H W"]) -> Iterator[Float32[Tensor, "B c F H W"]]:
    """Yield the first frame, then four at a time: each piece makes one latent frame."""
    yield video[:, :, :1]
    for start in range(1, video.shape[2], _PIECE):
        yield video[:, :, start : start + _PIECE]


def _layer(block: Any) -> nn.Module:  # noqa: ANN401 - diffusers is untyped here
    name = type(block).__name__
    if name == "WanResample":
        return _HalfTime(block) if hasattr(block, "time_conv") else _Each(Half(block))
    if name == "WanAttentionBlock":
        return _Each(Attention(block))
    if name != "WanResidualBlock":
        raise CheckpointError(f"the VAE has a {name}, which Wan2.1's has not")
    return _Residual(block)


def _causal(conv: Any) -> _Causal:  # noqa: ANN401 - diffusers is untyped here
    return _Causal(conv.weight, conv.bias)
