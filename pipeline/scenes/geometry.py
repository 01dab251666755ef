"""Where a view's tokens are in the world, from its depth image.

Letters: h w a depth image, gh gw the token grid. Cameras and pixels follow `scenes`. Colour and
depth share ONE optical centre and axis here (true of registered depth, and of every layout that
`scenes` reads); they may differ in size, focal length and field of view. A depth pixel's ray then
meets the colour image at a place that does not depend on its depth.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64


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
    col_ray = (np.arange(depth_m.shape[1]) + 0.5 - K_depth[0, 2]) / K_depth[0, 0]
    row_ray = (np.arange(depth_m.shape[0]) + 0.5 - K_depth[1, 2]) / K_depth[1, 1]
    xyz = _unproject(depth_m, row_ray, col_ray, world_from_camera)
    color_rows = row_ray * K_color[1, 1] + K_color[1, 2]
    color_cols = col_ray * K_color[0, 0] + K_color[0, 2]
    rows = _pixels_of_cells(color_rows, row_cells, image_height)
    cols = _pixels_of_cells(color_cols, col_cells, image_width)
    grid = (len(row_cells), len(col_cells))
    world_xyz = np.full((*grid, 3), np.nan, dtype=np.float32)
    depth_share = np.zeros(grid, dtype=np.float32)
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(cols):
            block = xyz[:, top:bottom, left:right].reshape(3, -1)
            is_unseen = np.isnan(block[0])
            seen = block[:, ~is_unseen] if is_unseen.any() else block  # mostly the latter
            if seen.size:
                world_xyz[i, j] = _median(seen)
                depth_share[i, j] = seen.shape[1] / block.shape[1]
    return TokenGeometry(
        world_xyz=world_xyz,
        center_xyz=_center_xyz(
            xyz, (color_rows, color_cols), (row_cells, col_cells), (image_height, image_width)
        ),
        depth_share=depth_share,
    )


def _unproject(
    depth_m: Float32[np.ndarray, "h w"],
    row_ray: Float[np.ndarray, " h"],
    col_ray: Float[np.ndarray, " w"],
    world_from_camera: Float[np.ndarray, "4 4"],
) -> Float32[np.ndarray, "3 h w"]:
    """Return world positions; NaN where there is no reading."""
    has_depth = (depth_m > 0) & np.isfinite(depth_m)
    z = np.where(has_depth, depth_m, np.float32(np.nan))
    xyz = np.empty((3, *depth_m.shape), dtype=np.float32)
    for axis in range(3):
        along_x, along_y, along_z, origin = world_from_camera[axis]
        # World position is linear in z: slope = R @ ray, one number a row plus one a column.
        row_slope = (along_y * row_ray + along_z).astype(np.float32)
        col_slope = (along_x * col_ray).astype(np.float32)
        np.add(row_slope[:, None], col_slope[None, :], out=xyz[axis])
        xyz[axis] *= z
        xyz[axis] += np.float32(origin)
    return xyz


def _pixels_of_cells(
    positions: Float[np.ndarray, " n"], cells: Float[np.ndarray, "g 2"], image_side: int
) -> Int64[np.ndarray, "g 2"]:
    """Return first and past-last depth index of each cell; `positions` increase."""
    inside = np.clip(cells, 0, image_side)
    return np.asarray(np.searchsorted(positions, inside, side="left"), dtype=np.int64)


def _median(values: Float32[np.ndarray, "3 n"]) -> Float32[np.ndarray, " 3"]:
    """Return the medians of three rows; np.median is several times slower on so few values."""
    count = values.shape[1]
    middle = [(count - 1) // 2, count // 2]
    parted = np.partition(values, middle, axis=1)
    return np.asarray(parted[:, middle].mean(axis=1, dtype=np.float32))


def _center_xyz(
    xyz: Float32[np.ndarray, "3 h w"],
    positions: tuple[Float[np.ndarray, " h"], Float[np.ndarray, " w"]],
    cells: tuple[Float[np.ndarray, "gh 2"], Float[np.ndarray, "gw 2"]],
    image_size: tuple[int, int],
) -> Float32[np.ndarray, "gh gw 3"]:
    picked, known = [], []
    for places, edges, side in zip(positions, cells, image_size, strict=True):
        center = edges.mean(axis=1)
        # Depth pixel i spans half a step to each side of its centre.
        step = places[1] - places[0] if len(places) > 1 else float(side)
        index = np.floor((center - places[0]) / step + 0.5).astype(np.int64)
        known.append((center >= 0) & (center < side) & (index >= 0) & (index < len(places)))
        picked.append(np.clip(index, 0, len(places) - 1))
    found = xyz[:, picked[0][:, None], picked[1][None, :]].transpose(1, 2, 0)
    is_known = known[0][:, None] & known[1][None, :]
    return np.where(is_known[..., None], found, np.float32(np.nan))
