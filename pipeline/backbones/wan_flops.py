"""Floating-point operations of Wan's parts, a multiply-add counted as two.

Source: the layers' shapes in Wan-Video/Wan2.1, wan/modules/model.py, and in diffusers,
autoencoder_kl_wan.py.
"""

import itertools

_DISTINCT_ROWS = 2
"""Of the empty prompt: its one row and one of padding."""


def block_flops(tokens: int, width: int, heads: int, ffn_dim: int) -> int:
    """Count one block with the prompt folded in: self-attention, the text's query and MLP."""
    attention = 8 * tokens * width**2 + 4 * tokens**2 * width
    text = 2 * tokens * width**2 + 2 * tokens * width * _DISTINCT_ROWS * (1 + heads)
    return attention + text + 4 * tokens * width * ffn_dim


def full_block_flops(tokens: int, width: int, text_rows: int, ffn_dim: int) -> int:
    """Count one block that attends to all rows of the text, as the reference recipe runs it."""
    attention = 8 * tokens * width**2 + 4 * tokens**2 * width
    cross = 4 * (tokens + text_rows) * width**2 + 4 * tokens * text_rows * width
    return attention + cross + 4 * tokens * width * ffn_dim


def vae_flops(rows: int, cols: int, width: int, temporal_taps: int) -> int:
    """Count the convolutions of the VAE's encoder on one frame.

    Args:
        rows: Of the canvas, px.
        cols: Of the canvas, px.
        width: Channels of the first level; two residual blocks a level, levels of 1, 2, 4, 4 times
            the width, three of them followed by a halving of the side.
        temporal_taps: 1 for frames alone; 3 counts what a video's kernels multiply with.
    """
    taps, area = 2 * 9 * temporal_taps, rows * cols
    total = taps * area * 3 * width
    levels = [width, width, 2 * width, 4 * width, 4 * width]
    for level, (before, after) in enumerate(itertools.pairwise(levels)):
        total += taps * area * (before * after + 3 * after**2)
        if level < 3:
            area //= 4
            total += 2 * 9 * area * after**2
    latent = 16 if temporal_taps == 1 else 32  # the mean alone, or the log-variance too
    return total + taps * area * (4 * levels[-1] ** 2 + levels[-1] * latent)
