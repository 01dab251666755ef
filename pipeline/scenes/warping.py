"""A view's neighbour drawn as the view would see it: what depth, poses and intrinsics claim.

Letters: H W a colour image, h w the picture. Cameras and pixels follow `scene`; colour and depth of
a view share one optical centre, as in `geometry`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

HIDDEN_SHARE = 0.05
"""Points that lie so much of the depth behind what the neighbour reads there are hidden from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColoredDepth:
    """A view's pixels and cameras."""

    rgb: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "dh dw"]
    K_color: Float[np.ndarray, "3 3"]
    K_depth: Float[np.ndarray, "3 3"]
    world_from_camera: Float[np.ndarray, "4 4"]


@dataclass(frozen=True, slots=True)
class Warped:
    """A neighbour, as it looks from a view; black where it cannot be known."""

    rgb: UInt8[np.ndarray, "h w 3"]
    is_known: Bool[np.ndarray, "h w"]
    """Where the view has depth, and the neighbour sees that point."""


def warp(
    view: ColoredDepth, neighbour: ColoredDepth, height: int, width: int
) -> tuple[UInt8[np.ndarray, "h w 3"], Warped]:
    """Return a view at a picture's size, and its neighbour as seen from there."""
    rows = (np.arange(height) + 0.5) * view.rgb.shape[0] / height
    cols = (np.arange(width) + 0.5) * view.rgb.shape[1] / width
    shown = view.rgb[np.ix_(rows.astype(int), cols.astype(int))]
    # The ray of each pixel of the picture, at z = 1.
    x = np.broadcast_to((cols - view.K_color[0, 2]) / view.K_color[0, 0], (height, width))
    y = ((rows - view.K_color[1, 2]) / view.K_color[1, 1])[:, None]
    rays = np.stack([x, np.broadcast_to(y, (height, width)), np.ones((height, width))])
    depth_m = _look_up(view.depth_m, _project(rays, view.K_depth), 0.0)
    there = np.linalg.inv(neighbour.world_from_camera) @ view.world_from_camera
    points = np.einsum("ij,jhw->ihw", there[:3, :3], rays * depth_m) + there[:3, 3, None, None]
    in_front = (depth_m > 0) & (points[2] > 0)
    read = _look_up(neighbour.depth_m, _project(points, neighbour.K_depth), 0.0)
    is_hidden = (read > 0) & (points[2] > read * (1 + HIDDEN_SHARE))
    place = _project(points, neighbour.K_color)
    is_known = in_front & ~is_hidden & _inside(place, neighbour.rgb.shape)
    rgb = np.where(is_known[..., None], _look_up(neighbour.rgb, place, 0), 0).astype(np.uint8)
    return shown, Warped(rgb, is_known)


def difference(shown: UInt8[np.ndarray, "h w 3"], warped: Warped) -> UInt8[np.ndarray, "h w 3"]:
    """Return how far a view and its warped neighbour are apart: black equal, grey not known."""
    apart = np.abs(shown.astype(np.int16) - warped.rgb).max(axis=2)
    # Dark red to yellow, so that it is no picture of the scene.
    tint = np.stack([2 * apart, 2 * apart - 160, np.zeros_like(apart)], axis=2)
    grey = np.full_like(shown, 110)
    return np.where(warped.is_known[..., None], tint.clip(0, 255), grey).astype(np.uint8)


def _project(
    points: Float[np.ndarray, "3 h w"], K: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "2 h w"]:
    """Return rows and columns; meaningless behind the camera, which the caller knows."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.stack(
            [
                points[1] / points[2] * K[1, 1] + K[1, 2],
                points[0] / points[2] * K[0, 0] + K[0, 2],
            ]
        )


def _inside(place: Float[np.ndarray, "2 h w"], shape: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    with np.errstate(invalid="ignore"):
        rows, cols = place
        return np.asarray(
            (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1]), dtype=bool
        )


def _look_up(pixels: np.ndarray, place: Float[np.ndarray, "2 h w"], outside: float) -> np.ndarray:
    """Return the pixel that each place falls into."""
    inside = _inside(place, pixels.shape)
    rows, cols = np.where(inside, place, 0).astype(np.int64)
    found = pixels[rows, cols]
    return np.where(inside.reshape(inside.shape + (1,) * (found.ndim - 2)), found, outside)
