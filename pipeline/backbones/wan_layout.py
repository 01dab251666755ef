"""Wan2.1's networks as their checkpoints name them, made of torch's layers alone.

They hold parameters and compute next to nothing: views alone and a constant prompt go through
`wan_frames` and `wan_blocks`, which rewrite these parameters and need no forward of diffusers'
classes. Importing those costs several seconds; what does need them (context `clip`, the reference
recipe) still takes them, as does a config that leaves a member to their defaults.

Source: diffusers, transformer_wan.py, autoencoder_kl_wan.py and embeddings.py (names and shapes,
the time sinusoid and the rotary tables).
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

_DIT = {
    "attention_head_dim", "cross_attn_norm", "eps", "ffn_dim", "freq_dim", "in_channels",
    "num_attention_heads", "num_layers", "out_channels", "patch_size", "rope_max_seq_len",
    "text_dim",
}  # fmt: skip
_VAE = {
    "base_dim", "dim_mult", "latents_mean", "latents_std", "num_res_blocks", "temperal_downsample",
    "z_dim",
}  # fmt: skip


def knows_dit(config: Mapping[str, Any]) -> bool:
    """Say whether a transformer's config.json is one that `Transformer` is laid out by."""
    plain = not config.get("added_kv_proj_dim") and not config.get("image_dim")
    usual = config.get("qk_norm", "rms_norm_across_heads") == "rms_norm_across_heads"
    return plain and usual and config.keys() >= _DIT


def knows_vae(config: Mapping[str, Any]) -> bool:
    """Say whether a VAE's config.json is one that `Vae` is laid out by."""
    plain = not config.get("is_residual") and config.get("patch_size") is None
    usual = not config.get("attn_scales") and config.get("in_channels", 3) == 3
    return plain and usual and config.keys() >= _VAE


class Transformer(nn.Module):
    """WanTransformer3DModel without its forward."""

    def __init__(self, config: Mapping[str, Any], num_layers: int) -> None:
        """Lay out so many blocks; parameters on the device of the context."""
        super().__init__()
        self.config = SimpleNamespace(**config)
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        dim, patch = heads * head_dim, tuple(config["patch_size"])
        self.rope = _Rope(head_dim, patch, config["rope_max_seq_len"])
        self.patch_embedding = nn.Conv3d(config["in_channels"], dim, patch, stride=patch)
        self.condition_embedder = _named(
            timesteps_proj=_Sinusoid(config["freq_dim"]),
            time_embedder=_mlp(config["freq_dim"], dim, nn.SiLU()),
            act_fn=nn.SiLU(),
            time_proj=nn.Linear(dim, 6 * dim),
            text_embedder=_mlp(config["text_dim"], dim, nn.GELU(approximate="tanh")),
        )
        self.blocks = nn.ModuleList(_Block(config, dim) for _ in range(num_layers))
        self.norm_out = nn.Identity()
        self.proj_out = nn.Linear(dim, config["out_channels"] * math.prod(patch))
        self.scale_shift_table = nn.Parameter(torch.empty(1, 2, dim))


class Vae(nn.Module):
    """AutoencoderKLWan of Wan2.1: its encoder, without its forward."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Lay out the encoder; parameters on the device of the context."""
        super().__init__()
        self.config = SimpleNamespace(**config)
        z_dim = config["z_dim"]
        widths = [config["base_dim"] * factor for factor in (1, *config["dim_mult"])]
        layers: list[nn.Module] = []
        for level, (width, next_width) in enumerate(itertools.pairwise(widths)):
            for index in range(config["num_res_blocks"]):
                layers.append(WanResidualBlock(next_width if index else width, next_width))
            if level < len(widths) - 2:
                layers.append(WanResample(next_width, config["temperal_downsample"][level]))
        last = widths[-1]
        self.encoder = _named(
            conv_in=nn.Conv3d(3, widths[0], 3),
            down_blocks=nn.ModuleList(layers),
            mid_block=_named(
                resnets=nn.ModuleList(WanResidualBlock(last, last) for _ in range(2)),
                attentions=nn.ModuleList([WanAttentionBlock(last)]),
            ),
            norm_out=_Gamma(last, 3),
            conv_out=nn.Conv3d(last, 2 * z_dim, 3),
        )
        self.quant_conv = nn.Conv3d(2 * z_dim, 2 * z_dim, 1)


class WanResidualBlock(nn.Module):
    """Two convolutions; called as diffusers calls it, which `wan_frames` goes by."""

    def __init__(self, width: int, next_width: int) -> None:
        """Lay out its parameters."""
        super().__init__()
        self.norm1, self.conv1 = _Gamma(width, 3), nn.Conv3d(width, next_width, 3)
        self.norm2, self.conv2 = _Gamma(next_width, 3), nn.Conv3d(next_width, next_width, 3)
        plain = width == next_width
        self.conv_shortcut = nn.Identity() if plain else nn.Conv3d(width, next_width, 1)


class WanResample(nn.Module):
    """Halving of the side, and of time where told."""

    def __init__(self, width: int, halves_time: bool) -> None:
        """Lay out its parameters."""
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(width, width, 3, stride=2))
        if halves_time:
            self.time_conv = nn.Conv3d(width, width, (3, 1, 1))


class WanAttentionBlock(nn.Module):
    """Self-attention of one head over a map."""

    def __init__(self, width: int) -> None:
        """Lay out its parameters."""
        super().__init__()
        self.norm = _Gamma(width, 2)
        self.to_qkv, self.proj = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)


class _Gamma(nn.Module):
    def __init__(self, width: int, axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width, *[1] * axes))


class _Block(nn.Module):
    def __init__(self, config: Mapping[str, Any], dim: int) -> None:
        super().__init__()
        heads, eps = config["num_attention_heads"], config["eps"]
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1, self.attn2 = _Attention(dim, heads, eps), _Attention(dim, heads, eps)
        self.norm2 = nn.LayerNorm(dim, eps) if config["cross_attn_norm"] else nn.Identity()
        inner = config["ffn_dim"]
        first = _named(proj=nn.Linear(dim, inner))
        self.ffn = _named(net=nn.ModuleList([first, nn.Identity(), nn.Linear(inner, dim)]))
        self.scale_shift_table = nn.Parameter(torch.empty(1, 6, dim))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps), nn.RMSNorm(dim, eps)


class _Sinusoid(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pairs = width // 2

    def forward(self, timesteps: Float32[Tensor, " n"]) -> Float32[Tensor, "n width"]:
        exponent = -math.log(10_000) * torch.arange(self.pairs, dtype=torch.float32) / self.pairs
        angles = timesteps[:, None] * torch.exp(exponent)[None]
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class _Rope(nn.Module):
    """Cosines and sines of the angles of each position of a video, each twice."""

    def __init__(self, head_dim: int, patch: tuple[int, ...], length: int) -> None:
        super().__init__()
        self.patch = patch
        side = 2 * (head_dim // 6)
        self.widths = [head_dim - 2 * side, side, side]
        angles = [_angles(width, length) for width in self.widths]
        for name, turn in (("cos", torch.cos), ("sin", torch.sin)):
            twice = [turn(one).repeat_interleave(2, dim=1).float() for one in angles]
            table = torch.cat(twice, dim=1)
            self.register_buffer(name, table, persistent=False)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        counts = [side // patch for side, patch in zip(video.shape[2:], self.patch, strict=True)]
        cosines, sines = (self._of(self.get_buffer(name), counts) for name in ("cos", "sin"))
        return cosines, sines

    def _of(self, table: Tensor, counts: list[int]) -> Tensor:
        parts = []
        for axis, part in enumerate(torch.split(table, self.widths, dim=1)):
            shape = [1, 1, 1, -1]
            shape[axis] = counts[axis]
            parts.append(part[: counts[axis]].view(shape).expand(*counts, -1))
        return torch.cat(parts, dim=-1).reshape(1, math.prod(counts), 1, -1)


def _angles(width: int, length: int) -> Tensor:
    """Return the angles of each position, float64 [length, width / 2]; never on meta."""
    steps = torch.arange(0, width, 2, dtype=torch.float64, device="cpu")
    positions = torch.arange(length, device="cpu")
    return torch.outer(positions, 1.0 / (10_000.0 ** (steps / width)))


def _mlp(width: int, dim: int, activation: nn.Module) -> nn.Sequential:
    return _named(linear_1=nn.Linear(width, dim), act=activation, linear_2=nn.Linear(dim, dim))


def _named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))
