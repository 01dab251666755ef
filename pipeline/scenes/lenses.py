"""Lens distortion: undistorting images to the pinhole camera that the intrinsics describe.

Letters: H W an image. Intrinsics and size stay; what the lens did not see is black, or no reading.
Models are OpenCV's, whose coefficients COLMAP and nerfstudio share.

Source: OpenCV, calib3d module (camera calibration; fisheye); COLMAP, src/colmap/sensor/models.h.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.shapes import Bool, Float, Float32, Float64, Int64, Shaped, UInt8


@dataclass(frozen=True, slots=True)
class Lens:
    """How a lens bends rays before the pinhole."""

    kind: Literal["opencv", "fisheye"]

    coefficients: tuple[float, ...]
    """opencv: k1 k2 p1 p2 k3 k4 k5 k6; fisheye: k1 k2 k3 k4 over the angle. Missing ones are 0."""


def lens(kind: Literal["opencv", "fisheye"], coefficients: Sequence[float]) -> Lens | None:
    """Return a lens, or None where it bends nothing; a fisheye always bends."""
    values = tuple(float(value) for value in coefficients)
    return Lens(kind, values) if kind == "fisheye" or any(values) else None


def colmap_camera(
    model: str, params: Sequence[float], where: str
) -> tuple[Float64[np.ndarray, "3 3"], Lens | None]:
    """Return intrinsics and lens of a COLMAP camera.

    Raises:
        SceneError: A model that no pinhole with these lenses covers; undistort with COLMAP.
    """
    if model not in COLMAP_PARAMS or len(params) != COLMAP_PARAMS[model]:
        raise SceneError(
            f"{where}: the camera model {model} with {len(params)} parameters is not read; "
            "undistort with `colmap image_undistorter`, which gives PINHOLE"
        )
    shared = model in _ONE_FOCAL
    fx, fy = params[0], params[0] if shared else params[1]
    cx, cy = params[1:3] if shared else params[2:4]
    rest = params[3:] if shared else params[4:]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
    kind: Literal["opencv", "fisheye"] = "fisheye" if "FISHEYE" in model else "opencv"
    return K, None if not rest else lens(kind, rest)


COLMAP_PARAMS: Mapping[str, int] = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
}
"""Parameters of the models that are read."""

_SURFACE = 0.05
"""Readings that differ by less than this share of their depth lie on one surface."""

_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE",
              "RADIAL_FISHEYE")  # fmt: skip


def undistort_rgb(
    rgb: UInt8[np.ndarray, "H W 3"], K: Float[np.ndarray, "3 3"], by: Lens
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the pinhole camera's image; bilinear."""
    corners, weights, seen = _sampling(_key(K), by, rgb.shape[0], rgb.shape[1], 0.5)
    flat = rgb.reshape(-1, 3)
    mixed = np.zeros((*seen.shape, 3), dtype=np.float32)
    for corner, weight in zip(corners, weights, strict=True):
        mixed += flat[corner] * weight[..., None]
    mixed[~seen] = 0
    return np.asarray(np.rint(mixed).astype(np.uint8))


def undistort_depth(
    depth_m: Float32[np.ndarray, "h w"], K: Float[np.ndarray, "3 3"], by: Lens
) -> Float32[np.ndarray, "h w"]:
    """Return the pinhole camera's depth.

    On a surface inverse depth is mixed, which is linear over a plane; across an edge the nearest
    reading is taken, never a mix of two surfaces.
    """
    corners, weights, seen = _sampling(_key(K), by, depth_m.shape[0], depth_m.shape[1], 0.0)
    readings = np.stack([depth_m.reshape(-1)[corner] for corner in corners])
    nearest = np.take_along_axis(readings, np.argmax(weights, axis=0)[None], axis=0)[0]
    is_surface = (readings > 0).all(axis=0) & (np.ptp(readings, axis=0) < _SURFACE * nearest)
    inverse = (weights / np.where(is_surface, readings, 1)).sum(axis=0)
    found = np.where(is_surface, 1 / inverse, nearest)
    return np.asarray(np.where(seen, found, 0).astype(np.float32))


def distort(
    x: Float64[np.ndarray, "..."], y: Float64[np.ndarray, "..."], by: Lens
) -> tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]:
    """Return where rays (x, y, 1) meet the image plane behind the lens; NaN where they do not.

    A polynomial turns back beyond some radius: rays farther out are not the lens's.
    """
    r2 = x * x + y * y
    if by.kind == "fisheye":
        k1, k2, k3, k4 = (*by.coefficients, 0.0, 0.0, 0.0, 0.0)[:4]
        r = np.sqrt(r2)
        angle = np.arctan(r)
        a2 = angle * angle
        bent = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
        growth = 1 + a2 * (3 * k1 + a2 * (5 * k2 + a2 * (7 * k3 + a2 * 9 * k4)))
        scale = np.where(r > 1e-8, bent / np.maximum(r, 1e-8), 1.0)
        scale = np.where(_outside(angle, growth), np.nan, scale)
        return x * scale, y * scale
    k1, k2, p1, p2, k3, k4, k5, k6 = (*by.coefficients, *(0.0,) * 8)[:8]
    above = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    below = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    slope_above = 1 + r2 * (3 * k1 + r2 * (5 * k2 + r2 * 7 * k3))
    slope_below = r2 * (2 * k4 + r2 * (4 * k5 + r2 * 6 * k6))
    growth = slope_above / below - above * slope_below / below**2
    scale = np.where(_outside(np.sqrt(r2), growth), np.nan, above / below)
    return (
        x * scale + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * scale + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def _outside(
    radius: Float64[np.ndarray, "..."], growth: Float64[np.ndarray, "..."]
) -> Shaped[np.ndarray, "..."]:
    turned = radius[growth <= 0]
    limit = turned.min() if turned.size else np.inf
    return np.asarray(radius >= limit)


def _key(K: Float[np.ndarray, "3 3"]) -> tuple[float, float, float, float]:
    return float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])


@lru_cache(maxsize=4)
def _sampling(
    camera: tuple[float, float, float, float], by: Lens, height: int, width: int, margin_px: float
) -> tuple[Int64[np.ndarray, "4 H W"], Float32[np.ndarray, "4 H W"], Bool[np.ndarray, "H W"]]:
    """Return the four pixels around each pixel's source, their weights, and where there are any.

    `margin_px` is how far a source may lie outside of the centres of the outermost pixels.
    """
    fx, fy, cx, cy = camera
    x = np.broadcast_to((np.arange(width) + 0.5 - cx) / fx, (height, width))
    y = np.broadcast_to(((np.arange(height) + 0.5 - cy) / fy)[:, None], (height, width))
    bent_x, bent_y = distort(np.ascontiguousarray(x), np.ascontiguousarray(y), by)
    rows, cols = bent_y * fy + cy - 0.5, bent_x * fx + cx - 0.5
    seen = (np.abs(2 * rows - height + 1) <= height - 1 + 2 * margin_px) & (
        np.abs(2 * cols - width + 1) <= width - 1 + 2 * margin_px
    )
    rows, cols = np.where(seen, rows, 0), np.where(seen, cols, 0)
    top, left = np.floor(rows).astype(np.int64), np.floor(cols).astype(np.int64)
    down, right = rows - top, cols - left
    corners, weights = [], []
    for row, row_weight in ((top, 1 - down), (top + 1, down)):
        for col, col_weight in ((left, 1 - right), (left + 1, right)):
            corners.append(row.clip(0, height - 1) * width + col.clip(0, width - 1))
            weights.append((row_weight * col_weight).astype(np.float32))
    return np.stack(corners), np.stack(weights), seen
