"""Counting a network's parameters and operations in one walk over its layers.

Standard library only: planning counts from a config.json. A multiply-add is two operations; norms
and activations are not counted as operations.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """What a network holds and does on one view."""

    parameters: int = 0
    flops: float = 0.0

    def linear(self, inputs: int, outputs: int, positions: float, *, bias: bool = True) -> None:
        """Count a linear layer at so many positions."""
        self.parameters += inputs * outputs + (outputs if bias else 0)
        self.flops += 2 * inputs * outputs * positions

    def conv(self, inputs: int, outputs: int, taps: int, positions: float) -> None:
        """Count a convolution with a kernel of so many taps, by its positions of output."""
        self.linear(taps * inputs, outputs, positions)

    def norm(self, channels: int, *, bias: bool = True) -> None:
        """Count a norm with a weight, and a bias."""
        self.parameters += channels * (2 if bias else 1)

    def scores(self, queries: float, keys: float, channels: int) -> None:
        """Count attention's two products, of queries with keys and of weights with values."""
        self.flops += 4 * queries * keys * channels

    def table(self, values: int) -> None:
        """Count weights that are only added or multiplied."""
        self.parameters += values


def count_streams(
    tally: Tally, c: int, head: int, double: int, last: int, tokens: int, text: int
) -> None:
    """Count blocks of two streams, each with weights of its own, then of one, up to a block.

    Args:
        tally: Counts.
        c: Width.
        head: Width of a head.
        double: Blocks of two streams.
        last: The last block that runs, from 0.
        tokens: Of the picture.
        text: Rows of the prompt.

    Source: diffusers, transformer_flux.py, transformer_hunyuan_video.py.
    """
    for block in range(last + 1):
        for positions in (tokens, text) if block < double else (tokens + text,):
            for _ in range(3):
                tally.linear(c, c, positions)
            tally.norm(2 * head, bias=False)
            if block < double:
                tally.linear(c, 6 * c, 1)
                tally.linear(c, c, positions)
                tally.linear(c, 4 * c, positions)
                tally.linear(4 * c, c, positions)
            else:
                tally.linear(c, 3 * c, 1)
                tally.linear(c, 4 * c, positions)
                tally.linear(5 * c, c, positions)
        tally.scores(tokens + text, tokens + text, c)
