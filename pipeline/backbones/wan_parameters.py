"""Sizes of Wan's published networks, and parameters up to the last tap from a config.json."""

import itertools
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

VAE = {"_class_name": "AutoencoderKLWan", "base_dim": 96, "z_dim": 16}
_DIT = {
    "_class_name": "WanTransformer3DModel",
    "patch_size": (1, 2, 2),
    "in_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "attention_head_dim": 128,
}
DIT_1_3B = {**_DIT, "num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
DIT_14B = {**_DIT, "num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
"""Source: Wan-Video/Wan2.1, wan/configs/wan_t2v_1_3B.py and wan_t2v_14B.py."""


def dit_parameters(dit: Config, num_blocks: int) -> int:
    """Count patch embedding, time and text MLPs, and the first blocks; the head is dropped.

    Source: diffusers, transformer_wan.py.
    """
    width = int(dit["num_attention_heads"]) * int(dit["attention_head_dim"])
    ffn_dim = int(dit["ffn_dim"])
    embeddings = _linear(4 * int(dit["in_channels"]), width)  # a patch has 2 x 2 latent cells
    embeddings += _linear(int(dit.get("freq_dim", 256)), width) + _linear(width, 7 * width)
    embeddings += _linear(int(dit.get("text_dim", 4096)), width) + _linear(width, width)
    attention = 4 * _linear(width, width) + 2 * width  # query and key norms
    mlp = _linear(width, ffn_dim) + _linear(ffn_dim, width)
    cross_norm, table = 2 * width, 6 * width
    return embeddings + num_blocks * (2 * attention + mlp + cross_norm + table)


def vae_parameters(vae: Config) -> int:
    """Count the VAE's encoder; the decoder is dropped.

    Source: diffusers, autoencoder_kl_wan.py, WanEncoder3d (two residual blocks a level).
    """
    levels, moments = _levels(vae), 2 * int(vae["z_dim"])
    total = _linear(27 * 3, levels[0])
    for level, (before, after) in enumerate(itertools.pairwise(levels)):
        total += _residual(before, after) + _residual(after, after)
        if level < 3:
            total += _linear(9 * after, after)
        if level in (1, 2):  # these halve the time axis too
            total += _linear(3 * after, after)
    last = levels[-1]
    attention = last + _linear(last, 3 * last) + _linear(last, last)
    head = last + _linear(27 * last, moments) + _linear(moments, moments)
    return total + 2 * _residual(last, last) + attention + head


def _levels(vae: Config) -> list[int]:
    width = int(vae["base_dim"])
    return [width, width, 2 * width, 4 * width, 4 * width]


def _residual(before: int, after: int) -> int:
    norms = before + after
    shortcut = _linear(before, after) if before != after else 0
    return norms + _linear(27 * before, after) + _linear(27 * after, after) + shortcut


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs
