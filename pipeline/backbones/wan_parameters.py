"""Parameters of Wan's networks up to the last tap, as published, from their config.json."""

import itertools
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]


def dit_parameters(dit: Config, num_blocks: int) -> int:
    """Count patch embedding, time and text MLPs, and the first blocks; the head is dropped.

    Source: diffusers, transformer_wan.py.
    """
    width = int(dit["num_attention_heads"]) * int(dit["attention_head_dim"])
    embeddings = _linear(4 * int(dit["in_channels"]), width)  # a patch has 2 x 2 latent cells
    embeddings += _linear(int(dit.get("freq_dim", 256)), width) + _linear(width, 7 * width)
    embeddings += _linear(int(dit.get("text_dim", 4096)), width) + _linear(width, width)
    return embeddings + num_blocks * block_parameters(dit)


def block_parameters(dit: Config) -> int:
    """Count one block."""
    width = int(dit["num_attention_heads"]) * int(dit["attention_head_dim"])
    ffn_dim = int(dit["ffn_dim"])
    attention = 4 * _linear(width, width) + 2 * width  # query and key norms
    mlp = _linear(width, ffn_dim) + _linear(ffn_dim, width)
    cross_norm, table = 2 * width, 6 * width
    image = dit.get("added_kv_proj_dim")  # keys and values of an image, and their norm
    added = 2 * _linear(int(image), width) + width if image else 0
    return 2 * attention + mlp + cross_norm + table + added


def hint_parameters(dit: Config, last_block: int) -> int:
    """Count VACE's embedding of its context and the blocks that make hints up to a block.

    Source: diffusers, transformer_wan_vace.py.
    """
    width = int(dit["num_attention_heads"]) * int(dit["attention_head_dim"])
    num = len([layer for layer in dit["vace_layers"] if layer <= last_block])
    projections = (num + 1) * _linear(width, width)  # one out of each, one into the first
    embedding = _linear(4 * int(dit.get("vace_in_channels", 96)), width)
    return embedding + projections + num * block_parameters(dit)


def image_parameters(dit: Config) -> int:
    """Count what takes CLIP's tokens in.

    Source: diffusers, transformer_wan.py, WanImageEmbedding.
    """
    if not (inputs := int(dit.get("image_dim") or 0)):
        return 0
    width = int(dit["num_attention_heads"]) * int(dit["attention_head_dim"])
    norms = 2 * inputs + 2 * width
    return norms + _linear(inputs, inputs) + _linear(inputs, width)


def vae_parameters(vae: Config) -> int:
    """Count the VAE's encoder; the decoder is dropped.

    Source: diffusers, autoencoder_kl_wan.py, WanEncoder3d (two residual blocks a level).
    """
    levels, moments = _levels(vae), 2 * int(vae["z_dim"])
    total = _linear(27 * int(vae.get("in_channels", 3)), levels[0])
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
