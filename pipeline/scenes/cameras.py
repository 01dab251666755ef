"""Poses and intrinsics: parsing their text files and checking that they can be true.

Intrinsics are used exactly as the files give them, in the convention of `scenes` (the first
pixel's centre is (0.5, 0.5)): captures do not say which of the two half-pixel conventions they
follow, and adding the half pixel changes how well depth reprojects between neighbouring views by
0.1 mm at most, now up, now down (13.80 to 13.66 mm on corridor_lidar, 4.95 to 4.99 on chair_lidar).
"""

import re
from collections.abc import Sequence

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.shapes import Float, Float64

ROTATION_TOLERANCE = 1e-2
"""Largest entry of R^T R - I and of the last row's error that still counts as a rigid pose."""

FIELD_OF_VIEW_DEG = (8.0, 150.0)
"""What pinhole cameras have: a telephoto lens, and the widest image that still is one."""

OFF_CENTRE = 0.08
"""Share of a side by which the principal points of real cameras lie off the middle at most: 0.04 in
TUM RGB-D's, 0.02 in the phones'; a lens is shifted along one side, not along both alike."""

SAME_SHARE = 0.03
"""Principal points off the middle by shares that are so equal on both sides come from scaling."""

_SCALE = (
    "scale the intrinsics to the size of the images, or the images back to the size of the "
    "intrinsics"
)


_NO_NUMBER = re.compile(r"([-+]?)1[.,]#(INF|IND|QNAN|SNAN)\w*", re.IGNORECASE)
"""How Microsoft's older runtimes print inf and nan: 1.#INF, -1.#IND."""


def parse_matrix(text: str, rows: int, cols: int, where: str) -> Float64[np.ndarray, "rows cols"]:
    """Parse a matrix of exactly that many numbers; inf and nan are numbers here.

    Raises:
        SceneError: Another count of numbers, or something that is no number.
    """
    return parse_numbers(text, (rows * cols,), f"{rows}x{cols}", where).reshape(rows, cols)


def parse_numbers(
    text: str, counts: Sequence[int], must_hold: str, where: str
) -> Float64[np.ndarray, " n"]:
    """Parse numbers between blanks, commas, semicolons or lines; decimals may have a comma.

    Args:
        text: As a file holds it; what follows a # is left out.
        counts: How many numbers there may be.
        must_hold: What to say where there are others.
        where: Names the file in messages.

    Raises:
        SceneError: Another count of numbers, or something that is no number.
    """
    plain = _NO_NUMBER.sub(lambda m: f"{m[1]}{'inf' if m[2].upper() == 'INF' else 'nan'}", text)
    lines = " ".join(line.partition("#")[0] for line in plain.splitlines())
    words = [word.strip(",") for word in lines.replace(";", " ").split()]
    if len(words) in counts:
        words = [word.replace(",", ".") for word in words]  # 0,5 is one number here
    else:
        words = lines.replace(",", " ").replace(";", " ").split()
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise SceneError(f"{where}: {error}; it must hold {must_hold} numbers") from error
    if values.size not in counts:
        raise SceneError(f"{where}: holds {values.size} numbers, must be {must_hold}")
    return values


def parse_intrinsics(text: str, where: str) -> Float64[np.ndarray, "3 3"]:
    """Parse a 3x3, 3x4 or 4x4 pinhole matrix and return its upper left 3x3.

    Raises:
        SceneError: Not finite, a focal length that is not positive, or a skewed camera.
    """
    values = parse_numbers(text, (9, 12, 16), "3x3", where)
    K = values.reshape(4 if values.size == 16 else 3, -1)[:3, :3].copy()
    check_intrinsics(K, where)
    return K


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Float64[np.ndarray, "3 3"]:
    """Return the matrix of a pinhole camera, px."""
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def check_intrinsics(K: Float[np.ndarray, "3 3"], where: str) -> None:
    """Raise SceneError unless K is [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0."""
    zeros = K[[0, 1, 2, 2], [1, 0, 0, 1]]
    if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
        raise SceneError(f"{where}: focal lengths must be positive and finite, got {K.tolist()}")
    if np.abs(zeros).max() > 1e-6 * K[0, 0] or abs(K[2, 2] - 1) > 1e-6:
        raise SceneError(
            f"{where}: must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {K.tolist()}; "
            "undistort and rectify the images first"
        )


def check_fits(
    K: Float[np.ndarray, "3 3"],
    height: int,
    width: int,
    where: str,
    of_size: tuple[int, int] | None = None,
) -> None:
    """Raise SceneError where intrinsics are plainly those of another image.

    The principal point must lie inside the middle half of the image, and not as it would in an
    image of another size or on its side; the field of view must be one that lenses have.

    Args:
        K: Intrinsics, px.
        height: Rows of the image.
        width: Its columns.
        where: Names the view and the kind of image.
        of_size: Rows and columns of the image that K is of, where the source says so.
    """
    if of_size is not None and of_size != (height, width):
        raise SceneError(
            f"{where} is {height}x{width}, but its intrinsics are of {of_size[0]}x{of_size[1]} by "
            f"the source's own word; {_SCALE}"
        )
    if why := _why_of_another_image(K, height, width):
        raise SceneError(
            f"{where} is {height}x{width}, but its intrinsics put the principal point at row "
            f"{K[1, 2]:.1f}, column {K[0, 2]:.1f}; {why}, so {_SCALE}"
        )
    narrow, wide = sorted(field_of_view(K, height, width))
    if not (FIELD_OF_VIEW_DEG[0] <= narrow and wide <= FIELD_OF_VIEW_DEG[1]):
        raise SceneError(
            f"{where} is {height}x{width} px and its focal lengths are {K[0, 0]:.4g} and "
            f"{K[1, 1]:.4g} px, a field of view of {wide:.1f} by {narrow:.1f} degrees, and lenses "
            f"have {FIELD_OF_VIEW_DEG[0]:g} to {FIELD_OF_VIEW_DEG[1]:g}; give the focal "
            "length in pixels of this image"
        )


def field_of_view(K: Float[np.ndarray, "3 3"], height: int, width: int) -> tuple[float, float]:
    """Return the horizontal and vertical field of view, degrees."""
    edges = (
        (-K[0, 2] / K[0, 0], (width - K[0, 2]) / K[0, 0]),
        (-K[1, 2] / K[1, 1], (height - K[1, 2]) / K[1, 1]),
    )
    across, down = (float(np.degrees(np.arctan(end) - np.arctan(start))) for start, end in edges)
    return across, down


def _why_of_another_image(K: Float[np.ndarray, "3 3"], height: int, width: int) -> str:
    """Say how the principal point shows that K is of another image; "" where it does not."""
    cx, cy = float(K[0, 2]) / width, float(K[1, 2]) / height
    turned = max(abs(float(K[0, 2]) / height - 0.5), abs(float(K[1, 2]) / width - 0.5))
    off = max(abs(cx - 0.5), abs(cy - 0.5))
    if off > OFF_CENTRE and turned < off / 2:
        return "it lies in the middle once rows and columns are exchanged (portrait, landscape)"
    if min(abs(cx - 0.5), abs(cy - 0.5)) > OFF_CENTRE and abs(cx - cy) < SAME_SHARE:
        return f"it would lie in the middle of an image {cx + cy:.2f} times as large"
    if not (0.25 < cx < 0.75 and 0.25 < cy < 0.75):
        return "it must lie inside the middle half of the image"
    return ""


def is_lost(world_from_camera: Float[np.ndarray, "4 4"]) -> bool:
    """Say whether a pose says that tracking was lost: not finite, or no rotation at all."""
    return not np.isfinite(world_from_camera).all() or not world_from_camera[:3, :3].any()


def check_pose(world_from_camera: Float[np.ndarray, "4 4"], where: str) -> None:
    """Raise SceneError unless the pose is rigid; a lost one passes, since its view is dropped."""
    if is_lost(world_from_camera):
        return
    rotation = world_from_camera[:3, :3]
    rotation_error = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if rotation_error > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise SceneError(
            f"{where}: pose is not rigid: R^T R differs from the identity by {rotation_error:.3g} "
            f"(at most {ROTATION_TOLERANCE:g} is accepted), det R = {np.linalg.det(rotation):.3g} "
            "(must be +1); it must be camera-to-world without scale or mirroring"
        )
    if np.abs(world_from_camera[3] - [0, 0, 0, 1]).max() > ROTATION_TOLERANCE:
        raise SceneError(
            f"{where}: the pose's last row is {world_from_camera[3].tolist()}, must be 0 0 0 1; "
            "perhaps the matrix is transposed"
        )
