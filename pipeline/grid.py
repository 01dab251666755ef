"""Where a backbone's tokens look, and pooling them to the grid that all backbones share.

Letters: V views, h w a backbone's own token grid, gh gw the common grid, C channels.
Coordinates are continuous: pixel or token i spans [i, i + 1].
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenMap:
    """Affine map from image pixels to a backbone's token grid: token = scale * pixel + offset."""

    rows: int
    cols: int
    scale_row: float
    offset_row: float
    scale_col: float
    offset_col: float
