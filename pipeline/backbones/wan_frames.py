"""Wan2.1's VAE encoder for views alone: 2D convolutions in place of causal 3D ones.

A causal 3D convolution over one frame sees zeros before it, so only the last temporal slice of its
kernel matters; the temporal halvings of a first frame do nothing. The encoder of a single frame is
therefore a 2D network with a third of the products, which also takes views as a batch. The 1x1x1
convolution that makes the posterior is folded into the last one, its mean half alone.
Letters: B views, z latent channels, C channels, h w a feature map.

Source: diffusers, autoencoder_kl_wan.py (WanEncoder3d, the topology that is rewritten here).
"""

from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from vega3d.pipeline.errors import CheckpointError


class FrameEncoder(nn.Module):
    """Encoder of single frames; equal to the VAE's `encode(...).mode()` of one-frame videos."""

    def __init__(self, vae: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
        """Rewrite the weights of an AutoencoderKLWan; raises CheckpointError for Wan2.2's."""
        super().__init__()
        encoder = vae.encoder
        if vae.config.get("is_residual") or vae.config.get("patch_size") is not None:
            raise CheckpointError("a VAE with residual downsampling or patches is Wan2.2's")
        middle = encoder.mid_block
        self.first = _flat(encoder.conv_in)
        self.layers = nn.Sequential(
            *(_layer(block) for block in encoder.down_blocks),
            _Residual(middle.resnets[0]),
            _Attention(middle.attentions[0]),
            _Residual(middle.resnets[1]),
        )
        self.norm = _Norm(encoder.norm_out)
        self.last = _mean_half(encoder.conv_out, vae.quant_conv, vae.config.z_dim)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs
        self.requires_grad_(False).eval()

    def forward(self, pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B z H/8 W/8"]:
        """Return the posterior's mean of each view, not yet normalised; pixels in [-1, 1]."""
        x = pixels.contiguous(memory_format=torch.channels_last)
        latents: Tensor = self.last(nn.functional.silu(self.norm(self.layers(self.first(x)))))
        return latents


class _Norm(nn.Module):
    """RMS norm over channels of a map in channels-last memory."""

    def __init__(self, norm: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
        super().__init__()
        self.weight = nn.Parameter(norm.gamma.detach().reshape(-1).clone())

    def forward(self, x: Float32[Tensor, "B C h w"]) -> Float32[Tensor, "B C h w"]:
        # The VAE divides by the norm, at least 1e-12; 1e-24 under the root does the same.
        last = nn.functional.rms_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, 1e-24)
        return last.permute(0, 3, 1, 2)


class _Residual(nn.Module):
    def __init__(self, block: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
        super().__init__()
        self.norm1, self.conv1 = _Norm(block.norm1), _flat(block.conv1)
        self.norm2, self.conv2 = _Norm(block.norm2), _flat(block.conv2)
        plain = isinstance(block.conv_shortcut, nn.Identity)
        self.shortcut = nn.Identity() if plain else _flat(block.conv_shortcut)

    def forward(self, x: Float32[Tensor, "B C h w"]) -> Float32[Tensor, "B D h w"]:
        inner = self.conv1(nn.functional.silu(self.norm1(x)))
        inner = self.conv2(nn.functional.silu(self.norm2(inner)))
        found: Tensor = inner + self.shortcut(x)
        return found


class _Half(nn.Module):
    """Halving of the side: a strided convolution over a map padded at the right and the bottom."""

    def __init__(self, block: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
        super().__init__()
        conv = block.resample[1]
        self.conv = _conv(conv.weight, conv.bias, stride=2, padding=0)

    def forward(self, x: Float32[Tensor, "B C h w"]) -> Float32[Tensor, "B C h/2 w/2"]:
        found: Tensor = self.conv(nn.functional.pad(x, (0, 1, 0, 1)))
        return found


class _Attention(nn.Module):
    """Self-attention of one head over a map."""

    def __init__(self, block: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
        super().__init__()
        self.norm = _Norm(block.norm)
        self.to_qkv, self.proj = _linear(block.to_qkv), _linear(block.proj)

    def forward(self, x: Float32[Tensor, "B C h w"]) -> Float32[Tensor, "B C h w"]:
        rows = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2).unsqueeze(1)  # B 1 (h w) C
        query, key, value = self.to_qkv(rows).chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        back = self.proj(mixed).squeeze(1).unflatten(1, x.shape[2:])
        found: Tensor = x + back.permute(0, 3, 1, 2)
        return found


def _layer(block: Any) -> nn.Module:  # noqa: ANN401 - diffusers is untyped here
    kinds = {"WanResidualBlock": _Residual, "WanResample": _Half, "WanAttentionBlock": _Attention}
    name = type(block).__name__
    if name not in kinds:
        raise CheckpointError(f"the VAE has a {name}, which Wan2.1's has not")
    return kinds[name](block)


def _flat(conv: Any) -> nn.Conv2d:  # noqa: ANN401 - diffusers is untyped here
    """Return a causal 3D convolution over one frame as a 2D one: its last temporal slice."""
    weight = conv.weight[:, :, -1]
    return _conv(weight, conv.bias, stride=1, padding=weight.shape[-1] // 2)


def _mean_half(conv: Any, quant: Any, z_dim: int) -> nn.Conv2d:  # noqa: ANN401 - diffusers is untyped here
    """Fold the 1x1x1 convolution after the encoder into its last one, for the mean alone.

    The product of the weights is rounded once, from float64.
    """
    mix = quant.weight.detach()[:z_dim, :, 0, 0, 0].double()
    weight = torch.einsum("zo,oihw->zihw", mix, conv.weight.detach()[:, :, -1].double())
    bias = mix @ conv.bias.detach().double() + quant.bias.detach()[:z_dim].double()
    return _conv(weight.float(), bias.float(), stride=1, padding=conv.weight.shape[-1] // 2)


def _conv(weight: Tensor, bias: Tensor, *, stride: int, padding: int) -> nn.Conv2d:
    out_channels, in_channels, side, _ = weight.shape
    conv = nn.Conv2d(in_channels, out_channels, side, stride=stride, padding=padding)
    conv.weight = nn.Parameter(weight.detach().clone())
    conv.bias = nn.Parameter(bias.detach().clone())
    return conv


def _linear(conv: Any) -> nn.Linear:  # noqa: ANN401 - diffusers is untyped here
    """Return a 1x1 convolution as a linear layer over the last axis."""
    weight = conv.weight.detach().flatten(1)
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight.clone()), nn.Parameter(conv.bias.detach())
    return linear
