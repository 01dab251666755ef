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
