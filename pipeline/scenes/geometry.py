"""Where a view's tokens are in the world, from its depth image.

Letters: h w a depth image, gh gw the token grid. Cameras and pixels follow `scenes`. Colour and
depth share ONE optical centre and axis here (true of registered depth, and of every layout that
`scenes` reads); they may differ in size, focal length and field of view. A depth pixel's ray then
meets the colour image at a place that does not depend on its depth.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenGeometry:
    """Positions of one view's tokens, metres, world frame."""

    world_xyz: Float32[np.ndarray, "gh gw 3"]
    """Component-wise median over the readings of the cell; NaN where it has none."""

    center_xyz: Float32[np.ndarray, "gh gw 3"]
    """Position seen by the depth pixel at the cell's centre; NaN without a reading there."""

    depth_share: Float32[np.ndarray, "gh gw"]
    """Share of the cell's depth pixels that have a reading; 0 where the cell has no depth pixel."""


def token_positions(
    depth_m: Float32[np.ndarray, "h w"],
    K_depth: Float[np.ndarray, "3 3"],
    K_color: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "4 4"],
    image_height: int,
    image_width: int,
    row_cells: Float[np.ndarray, "gh 2"],
    col_cells: Float[np.ndarray, "gw 2"],
) -> TokenGeometry:
    """Return where each cell of a token grid lies in the world.

    A depth pixel belongs to every cell that its centre's ray falls into (start <= x < end), and to
    none where that ray misses the colour image.

    Args:
        depth_m: z-depth, metres; 0 means no reading.
        K_depth: Intrinsics of the depth image, px, without skew.
        K_color: Intrinsics of the colour image, px, without skew.
        world_from_camera: Rigid pose of the common camera.
        image_height: Rows of the colour image.
        image_width: Columns of the colour image.
        row_cells: Start and end of each grid row, in colour pixels; cells may overlap, leave gaps
            and reach outside the image.
        col_cells: Start and end of each grid column, likewise.
    """
    from vega3d.pipeline.scenes.medians import cell_medians  # numba's: not to plan with

    col_ray = (np.arange(depth_m.shape[1]) + 0.5 - K_depth[0, 2]) / K_depth[0, 0]
    row_ray = (np.arange(depth_m.shape[0]) + 0.5 - K_depth[1, 2]) / K_depth[1, 1]
    # World position is linear in z: slope = R @ ray, one number a row plus one a column.
    turn, origin = world_from_camera[:3, :3], world_from_camera[:3, 3].astype(np.float32)
    row_slopes = (turn[:, 1:2] * row_ray + turn[:, 2:3]).astype(np.float32)
    col_slopes = (turn[:, 0:1] * col_ray).astype(np.float32)
    color_rows = row_ray * K_color[1, 1] + K_color[1, 2]
    color_cols = col_ray * K_color[0, 0] + K_color[0, 2]
    rows = _pixels_of_cells(color_rows, row_cells, image_height)
    cols = _pixels_of_cells(color_cols, col_cells, image_width)
    world_xyz, depth_share = cell_medians(depth_m, row_slopes, col_slopes, origin, rows, cols)
    is_row, row = _centers(color_rows, row_cells, image_height)
    is_col, col = _centers(color_cols, col_cells, image_width)
    z = depth_m[np.ix_(row, col)]
    is_known = (is_row[:, None] & is_col[None, :]) & (z > 0) & np.isfinite(z)
    with np.errstate(invalid="ignore"):  # readings that are none
        center_xyz = (row_slopes[:, row, None] + col_slopes[:, None, col]) * z
    center_xyz += origin[:, None, None]
    center_xyz[:, ~is_known] = np.nan
    return TokenGeometry(
        world_xyz=world_xyz,
        center_xyz=np.ascontiguousarray(center_xyz.transpose(1, 2, 0)),
        depth_share=depth_share,
    )


def _pixels_of_cells(
    positions: Float[np.ndarray, " n"], cells: Float[np.ndarray, "g 2"], image_side: int
) -> Int64[np.ndarray, "g 2"]:
    """Return first and past-last depth index of each cell; `positions` increase."""
    inside = np.clip(cells, 0, image_side)
    return np.asarray(np.searchsorted(positions, inside, side="left"), dtype=np.int64)


def _centers(
    places: Float[np.ndarray, " n"], cells: Float[np.ndarray, "g 2"], image_side: int
) -> tuple[Bool[np.ndarray, " g"], Int64[np.ndarray, " g"]]:
    """Return which cells have a depth pixel at their centre, and its index."""
    center = cells.mean(axis=1)
    # Depth pixel i spans half a step to each side of its centre.
    step = places[1] - places[0] if len(places) > 1 else float(image_side)
    index = np.floor((center - places[0]) / step + 0.5).astype(np.int64)
    is_there = (center >= 0) & (center < image_side) & (index >= 0) & (index < len(places))
    return is_there, np.clip(index, 0, len(places) - 1)
