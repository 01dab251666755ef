"""One analytic scene: three textured planes seen by a few cameras, every position in closed form.

Letters: h w an image. Cameras and pixels are OpenCV's: x right, y down, z forward, the first
pixel's centre is (0.5, 0.5). Nothing here knows the package under test.
"""

from dataclasses import dataclass, field

import numpy as np

PLANES = (
    (np.array([0.0, 1.0, 0.0]), 1.2),  # floor: y is down
    (np.array([0.0, 0.0, 1.0]), 4.0),  # back wall
    (np.array([1.0, 0.0, 0.0]), -1.5),  # left wall
)
"""Normal and offset: a point lies on it where normal @ point == offset."""


@dataclass(frozen=True)
class PlaneScene:
    """Cameras before the planes; colour and depth share the pose."""

    num_views: int = 4
    color_size: tuple[int, int] = (144, 192)
    depth_size: tuple[int, int] = (72, 96)
    K: np.ndarray = field(default_factory=lambda: camera(165.0, 158.0, 92.0, 75.5))
    """Of colour."""

    def pose(self, view: int) -> np.ndarray:
        """World from camera: it walks to the right, turns left and nods a little."""
        yaw, pitch, roll = np.deg2rad([-4.0 * view - 3, 5.0 + view, 2.0 * view - 3])
        pose = np.eye(4)
        pose[:3, :3] = turn_y(yaw) @ turn_x(-pitch) @ turn_z(roll)
        pose[:3, 3] = 0.25 * view, 0.05 * view - 0.1, 0.1 * view
        return pose

    def depth(self, view: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """z-depth of each pixel, metres, float64 [h, w]."""
        return self._hits(view, size or self.depth_size)[0]

    def xyz(self, view: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """World position of each pixel, metres, [h, w, 3]."""
        return self._hits(view, size or self.depth_size)[1]

    def is_flat(self, view: int) -> np.ndarray:
        """True where a pixel and its eight neighbours see one plane, bool [h, w]."""
        xyz = self.xyz(view)
        planes = [np.abs(xyz @ normal - offset) < 1e-9 for normal, offset in PLANES]
        on = np.pad(np.argmax(planes, axis=0), 1, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(on, (3, 3))
        return np.ptp(windows, axis=(2, 3)) == 0

    def rgb(self, view: int, rays: np.ndarray | None = None) -> np.ndarray:
        """uint8 [h, w, 3]; `rays` are of another camera model than the pinhole, [h, w, 3]."""
        xyz = self._hits(view, self.color_size, rays)[1]
        return np.rint(texture(xyz)).astype(np.uint8)

    def known_points(self, view: int) -> np.ndarray:
        """World points that the view sees well inside its image, [n, 3]."""
        rows, cols = (np.arange(8, side - 8, 7) for side in self.color_size)
        return self.xyz(view, self.color_size)[np.ix_(rows, cols)].reshape(-1, 3)

    def _hits(
        self, view: int, size: tuple[int, int], rays: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        if rays is None:
            rays = pixel_rays(scaled(self.K, self.color_size, size), size)
        pose = self.pose(view)
        directions = rays @ pose[:3, :3].T
        depth = np.full(rays.shape[:2], np.inf)
        for normal, offset in PLANES:
            with np.errstate(divide="ignore"):
                reached = (offset - normal @ pose[:3, 3]) / (directions @ normal)
            depth = np.where((reached > 0) & (reached < depth), reached, depth)
        return depth, pose[:3, 3] + directions * depth[..., None]


def texture(xyz: np.ndarray) -> np.ndarray:
    """Smooth colours of world positions, 0..255, float [..., 3]."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    waves = np.stack([np.sin(5 * x + 2 * z), np.sin(4 * y - 3 * x), np.sin(6 * z + y)], axis=-1)
    return 127 + 100 * waves


def camera(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def scaled(K: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    return K * np.array([[new[1] / old[1]], [new[0] / old[0]], [1.0]])


def pixel_rays(K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Ray of each pixel with z = 1, [h, w, 3]."""
    rows, cols = np.indices(size) + 0.5
    return np.stack(
        [(cols - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones(size)], axis=-1
    )


def turn_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def turn_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def turn_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
