"""Token positions: by hand, against a slow twin, and on a room whose geometry is known."""

import time

import numpy as np
import pytest

from vega3d.pipeline.scenes.geometry import token_positions
from vega3d.pipeline.scenes.reading import read_scenes

K_WIDE = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])


def even_cells(side: int, count: int) -> np.ndarray:
    edges = np.linspace(0, side, count + 1)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def turned_pose() -> np.ndarray:
    cos, sin = np.cos(0.7), np.sin(0.7)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]) @ np.array(
        [[1, 0, 0], [0, cos, -sin], [0, sin, cos]]
    )
    pose[:3, 3] = (1.5, -2.0, 0.3)
    return pose


def slow_token_positions(
    depth_m: np.ndarray,
    K_depth: np.ndarray,
    K_color: np.ndarray,
    pose: np.ndarray,
    image_size: tuple[int, int],
    row_cells: np.ndarray,
    col_cells: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The plain twin: every depth pixel goes to 3D, to colour pixels, and into its cells."""
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    height, width = image_size
    pixels = np.zeros((len(row_cells), len(col_cells)))
    for r in range(depth_m.shape[0]):
        for c in range(depth_m.shape[1]):
            ray = np.linalg.inv(K_depth) @ [c + 0.5, r + 0.5, 1]
            u, v, _ = K_color @ ray
            if not (0 <= u < width and 0 <= v < height):
                continue
            for i, (top, bottom) in enumerate(row_cells):
                for j, (left, right) in enumerate(col_cells):
                    if top <= v < bottom and left <= u < right:
                        pixels[i, j] += 1
                        if depth_m[r, c] > 0:
                            world = pose @ [*(ray * depth_m[r, c]), 1]
                            found.setdefault((i, j), []).append(world[:3])
    xyz = np.full((len(row_cells), len(col_cells), 3), np.nan)
    share = np.zeros((len(row_cells), len(col_cells)))
    for (i, j), points in found.items():
        xyz[i, j] = np.median(points, axis=0)
        share[i, j] = len(points) / pixels[i, j]
    return xyz, share


def test_a_wall_two_metres_ahead_is_where_similar_triangles_put_it() -> None:
    depth = np.full((48, 64), 2.0, dtype=np.float32)
    depth[:24, :32] = 0  # upper left quarter: no reading
    depth[40, 50] = 0
    result = token_positions(
        depth, K_WIDE, K_WIDE, np.eye(4), 48, 64, even_cells(48, 2), even_cells(64, 2)
    )
    # Right half: columns 32..63, centres 32.5..63.5, median 48 -> (48 - 32) * 2 / 50.
    np.testing.assert_allclose(result.world_xyz[0, 1], (0.64, -0.48, 2.0), atol=1e-6)
    np.testing.assert_allclose(result.world_xyz[1, 0], (-0.64, 0.48, 2.0), atol=1e-6)
    assert np.isnan(result.world_xyz[0, 0]).all()
    assert np.isnan(result.center_xyz[0, 0]).all()
    np.testing.assert_allclose(result.depth_share, [[0, 1], [1, 1 - 1 / 768]])
    # The centre of the lower right cell is (36, 48): the pixel that starts there.
    np.testing.assert_allclose(result.center_xyz[1, 1], (0.66, 0.5, 2.0), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_fast_positions_equal_the_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 4, (20, 30)).astype(np.float32)
    depth[rng.uniform(size=depth.shape) < 0.3] = 0
    # Depth of another size, focal length and (wider) field of view than colour.
    K_depth = np.array([[20.0, 0, 15.3], [0, 21, 9.6], [0, 0, 1]])
    K_color = np.array([[61.0, 0, 31.2], [0, 60, 25.1], [0, 0, 1]])
    # Cells that overlap, leave gaps and reach outside of the image.
    rows = np.array([[-9.0, 6], [4, 20], [19.5, 33], [40, 60.0]])
    cols = np.array([[0.0, 16], [16, 32], [30, 50], [50, 50.01], [60, 90]])
    pose = turned_pose()
    result = token_positions(depth, K_depth, K_color, pose, 48, 64, rows, cols)
    xyz, share = slow_token_positions(depth, K_depth, K_color, pose, (48, 64), rows, cols)
    np.testing.assert_allclose(result.world_xyz, xyz, atol=5e-6)  # float32 at 5 m
    np.testing.assert_allclose(result.depth_share, share, atol=1e-6)
    assert np.isnan(xyz[:, 3]).all()
    assert not np.isnan(xyz).all()


def test_cells_wholly_outside_the_image_know_nothing() -> None:
    depth = np.ones((48, 64), dtype=np.float32)
    outside = np.array([[-20.0, 0], [48, 70]])
    result = token_positions(depth, K_WIDE, K_WIDE, np.eye(4), 48, 64, outside, even_cells(64, 2))
    assert np.isnan(result.world_xyz).all()
    assert np.isnan(result.center_xyz).all()
    assert (result.depth_share == 0).all()


def test_the_median_is_taken_in_the_world_frame() -> None:
    # Three readings in one cell; component-wise medians in another frame would give another point.
    depth = np.array([[1.0, 2.0, 4.0]], dtype=np.float32)
    K = np.array([[1.0, 0, 1.5], [0, 1, 0.5], [0, 0, 1]])
    pose = turned_pose()
    result = token_positions(depth, K, K, pose, 1, 3, np.array([[0.0, 1]]), np.array([[0.0, 3]]))
    rays = np.array([[-1.0, 0, 1], [0, 0, 1], [1, 0, 1]]) * depth.T
    world = rays @ pose[:3, :3].T + pose[:3, 3]
    np.testing.assert_allclose(result.world_xyz[0, 0], np.median(world, axis=0), atol=1e-6)


def test_centres_of_a_room_lie_on_the_surface_that_other_pixels_show() -> None:
    view = read_scenes("rooms:1?views=4&height=96&width=128").read("room0000").views[0]
    assert view.read_depth_m is not None
    depth = view.read_depth_m()
    cells = (
        np.stack([np.arange(96.0), np.arange(96.0) + 1], 1),
        np.stack([np.arange(128.0), np.arange(128.0) + 1], 1),
    )
    result = token_positions(
        depth, view.K_depth, view.K_color, view.world_from_camera, 96, 128, *cells
    )
    # Cells of one pixel: median and centre are that pixel's position, and project back onto it.
    np.testing.assert_array_equal(result.world_xyz, result.center_xyz)
    camera = np.linalg.inv(view.world_from_camera)
    xyz = result.world_xyz.astype(float) @ camera[:3, :3].T + camera[:3, 3]
    uv = xyz[..., :2] / xyz[..., 2:] * view.K_color[0, 0] + view.K_color[:2, 2]
    np.testing.assert_allclose(
        uv[..., 0], np.broadcast_to(np.arange(128) + 0.5, (96, 128)), atol=1e-3
    )
    np.testing.assert_allclose(xyz[..., 2], depth, atol=1e-5)


def test_thirty_two_views_take_well_under_two_seconds() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 4, (480, 640)).astype(np.float32)
    K = np.array([[577.0, 0, 320], [0, 577, 240], [0, 0, 1]])
    cells = even_cells(480, 14), even_cells(640, 14)
    started = time.process_time()
    for _ in range(8):
        token_positions(depth, K, K, turned_pose(), 480, 640, *cells)
    assert (time.process_time() - started) * 4 < 2.0
