"""Wan2.1's VAE encoder for views alone: 2D convolutions in place of causal 3D ones.

A causal 3D convolution over one frame sees zeros before it, so only the last temporal slice of its
kernel matters; the temporal halvings of a first frame do nothing. The encoder of a single frame is
therefore a 2D network with a third of the products, which also takes views as a batch. The 1x1x1
convolution that makes the posterior is folded into the last one, its mean half alone.
In bfloat16 the convolutions and the linear layers read and write bfloat16; norms and the residual
stream stay float32. Letters: B views, z latent channels, C channels, h w a feature map.

Source: diffusers, autoencoder_kl_wan.py (WanEncoder3d, the topology that is rewritten here).
"""

from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vega3d.pipeline.backbones.gpu_products import wide_attention
from vega3d.pipeline.errors import CheckpointError

_PIECE_VALUES = 2**18
"""Of a map that goes through norm and activation at once on a CPU: 1 MB, a core's cache."""


class FrameEncoder(nn.Module):
    """Encoder of single frames; equal to the VAE's `encode(...).mode()` of one-frame videos."""

    def __init__(
        self,
        vae: Any,  # noqa: ANN401 - diffusers is untyped here
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Rewrite the weights of an AutoencoderKLWan; raises CheckpointError for Wan2.2's.

        Args:
            vae: The model.
            dtype: Type of the convolutions, float32 or bfloat16.
        """
        super().__init__()
        encoder = vae.encoder
        told = vae.config
        if getattr(told, "is_residual", False) or getattr(told, "patch_size", None) is not None:
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
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.to(dtype)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs
        self.requires_grad_(False).eval()

    def forward(self, pixels: Float32[Tensor, "B 3 H W"]) -> Float32[Tensor, "B z H/8 W/8"]:
        """Return the posterior's mean of each view, not yet normalised; pixels in [-1, 1]."""
        x = pixels.contiguous(memory_format=torch.channels_last)
        x = self.layers(self.first(x.to(self.first.weight.dtype)).float())
        latents: Tensor = self.last(_activated(self.norm, x, self.last)).float()
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
        inner = self.conv1(_activated(self.norm1, x, self.conv1))
        inner = self.conv2(_activated(self.norm2, inner, self.conv2))
        if not isinstance(self.shortcut, nn.Identity):
            x = self.shortcut(x.to(self.conv1.weight.dtype))
        found: Tensor = x.float() + inner
        return found


class _Half(nn.Module):
    """Halving of the side: a strided convolution over a map padded at the right and the bottom."""

    def __init__(self, block: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
        super().__init__()
        conv = block.resample[1]
        self.conv = _conv(conv.weight, conv.bias, stride=2, padding=0)

    def forward(self, x: Float32[Tensor, "B C h w"]) -> Float32[Tensor, "B C h/2 w/2"]:
        padded = nn.functional.pad(x.to(self.conv.weight.dtype), (0, 1, 0, 1))
        found: Tensor = self.conv(padded).float()
        return found


class _Attention(nn.Module):
    """Self-attention of one head over a map."""

    def __init__(self, block: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
        super().__init__()
        self.norm = _Norm(block.norm)
        self.to_qkv, self.proj = _linear(block.to_qkv), _linear(block.proj)

    def forward(self, x: Float32[Tensor, "B C h w"]) -> Float32[Tensor, "B C h w"]:
        rows = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2).unsqueeze(1)  # B 1 (h w) C
        query, key, value = self.to_qkv(rows.to(self.proj.weight.dtype)).chunk(3, dim=-1)
        back = self.proj(_attend(query, key, value)).squeeze(1).unflatten(1, x.shape[2:])
        found: Tensor = x + back.float().permute(0, 3, 1, 2)
        return found


def _attend(
    query: Float[Tensor, "B 1 N C"], key: Float[Tensor, "B 1 N C"], value: Float[Tensor, "B 1 N C"]
) -> Float[Tensor, "B 1 N C"]:
    """Attend over a map; scores and softmax are float32."""
    if query.device.type == "cpu" or query.dtype == torch.float32:
        return nn.functional.scaled_dot_product_attention(query, key, value)
    found: Tensor = wide_attention(query[:, 0], key[:, 0], value[:, 0])
    return found.unsqueeze(1)


def _activated(norm: "_Norm", x: Float[Tensor, "B C h w"], conv: nn.Conv2d) -> Tensor:
    """Return the normed and activated map in the type of the convolution that reads it.

    Norm and activation are float32. On a CPU some rows go through both while they are in its cache:
    three times as fast, with the same bits.
    """
    if x.device.type != "cpu":
        return nn.functional.silu(norm(x.float())).to(conv.weight.dtype)
    out = torch.empty_like(x, dtype=conv.weight.dtype)
    rows = max(1, _PIECE_VALUES // (x.shape[1] * x.shape[3]))
    for view, made in zip(x, out, strict=True):
        for top in range(0, x.shape[2], rows):
            some = norm(view[None, :, top : top + rows].float())
            made[None, :, top : top + rows] = nn.functional.silu(some, inplace=True)
    return out


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
