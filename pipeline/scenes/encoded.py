"""Views as files hold them, and the scene that they make: what every reader ends with.

A reader gives one `EncodedView` a view, or the reason why there is none; `build_scene` turns them
into a scene whose pixels are decoded and checked when asked for.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import check_fits
from vega3d.pipeline.scenes.depth_images import decode_depth_m, depth_size
from vega3d.pipeline.scenes.files import printable
from vega3d.pipeline.scenes.images import decode_rgb, image_size, read_turns
from vega3d.pipeline.scenes.integrity import JPEG_SIGNATURE, PNG_SIGNATURE
from vega3d.pipeline.scenes.lenses import Lens, undistort_depth, undistort_rgb
from vega3d.pipeline.scenes.scene import BadView, Scene, View
from vega3d.pipeline.shapes import Float, Float32, Float64, UInt8

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedView:
    """A view as files hold it; `decoded_view` turns it into one that decodes and checks itself."""

    scene_id: str
    view_id: str
    load_color: Callable[[], bytes]
    load_depth: Callable[[], bytes | np.ndarray] | None = None
    """A file, or readings where the format is one of its own."""

    K_color: Float[np.ndarray, "3 3"] | None = None
    K_color_size: tuple[int, int] | None = None
    """Rows and columns of the image that K_color is of, where the source says so."""

    K_depth: Float[np.ndarray, "3 3"] | None = None
    """None where depth is registered to colour by resizing: it then follows from K_color."""

    world_from_camera: Float[np.ndarray, "4 4"] | None = None

    depth_size: tuple[int, int] | None = None
    """Rows and columns that every depth image of the scene must have."""

    unit_m: float | None = None
    """Metres of one step of the depth readings; None is 0.001 for integers, 1 for floats."""

    lens: Lens | None = None
    """Undistorts colour and depth to the pinhole camera of the intrinsics."""

    turns: int | None = None
    """Quarter turns clockwise that show it upright; None: as the image's EXIF says."""

    @property
    def where(self) -> str:
        """Name the view for messages."""
        return f"{self.scene_id}/view {self.view_id}"


def build_scene(
    scene_id: str,
    makers: Iterable[tuple[str, Callable[[], EncodedView]]],
    notes: Sequence[str] = (),
) -> Scene:
    """Return the scene of the views that can be made; the others are its bad views.

    Args:
        scene_id: The scene's.
        makers: View ids with what makes the view, in order; SceneError and OSError are that view's.
        notes: For a person.

    Raises:
        SceneError: No view can be made; the first reason is in the message.
    """
    views: list[EncodedView] = []
    bad: list[BadView] = []
    for view_id, make in makers:
        try:
            if printable(view_id) != view_id:
                raise SceneError(f"{scene_id}: an image's name is no UTF-8; rename it")
            views.append(make())
        except OSError as error:
            told = SceneError(f"{scene_id}/view {view_id}: {error}")
            bad.append(BadView(printable(view_id), str(told)))
        except SceneError as error:
            bad.append(BadView(printable(view_id), str(error)))
    if not views:
        raise SceneError(bad[0].reason if bad else f"{scene_id}: holds no colour images")
    views, scaled = _with_color_size(views)
    views = _with_depth_size(views)
    return Scene(scene_id, tuple(map(decoded_view, views)), tuple(bad), (*notes, *scaled))


def decoded_view(encoded: EncodedView) -> View:
    """Return a lazy view: pixels are decoded and checked when asked for."""
    return View(
        view_id=encoded.view_id,
        read_rgb=lambda: _read_rgb(encoded),
        read_depth_m=None if encoded.load_depth is None else lambda: _read_depth(encoded),
        K_color=encoded.K_color,
        K_color_size=encoded.K_color_size,
        K_depth=encoded.K_depth,
        world_from_camera=encoded.world_from_camera,
        # A file whose pixels are not those that the intrinsics describe is not passed on.
        read_color_bytes=None if encoded.lens else encoded.load_color,
        read_rgb_at=None if encoded.lens else partial(_read_rgb, encoded),
        read_turns=lambda: _read_turns(encoded),
        is_independent=True,  # a loader opens its file anew, or holds its bytes
    )


def resized(
    K: Float[np.ndarray, "3 3"], from_size: tuple[int, int], to_size: tuple[int, int]
) -> Float64[np.ndarray, "3 3"]:
    """Return the intrinsics of an image after resizing it between two sizes (rows, columns)."""
    rows, cols = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return np.asarray(np.diag([cols, rows, 1.0]) @ K)


def _with_color_size(views: list[EncodedView]) -> tuple[list[EncodedView], list[str]]:
    """Scale intrinsics whose source names another size than the images have, at the same aspect.

    One header is read: images of a scene have one size.
    """
    stated = _first(views, lambda view: view.K_color_size)
    size = _first(views, _color_size_of) if stated else None
    if stated is None or size is None or size in (stated, stated[::-1]):
        return views, []
    # Half a pixel of rounding on either side still counts as the same aspect.
    slack = abs(stated[0] * size[1] - stated[1] * size[0])
    if slack > max(stated) + max(size):
        return views, []  # reading a view says that they do not fit
    scaled = [
        replace(view, K_color=resized(view.K_color, view.K_color_size, size), K_color_size=size)
        if view.K_color is not None and view.K_color_size is not None
        else view
        for view in views
    ]
    return scaled, [
        f"intrinsics are of {stated[0]}x{stated[1]} and images {size[0]}x{size[1]} (rows x "
        "columns); scaled to them"
    ]


def _with_depth_size(views: list[EncodedView]) -> list[EncodedView]:
    size = _first(views, lambda view: view.depth_size or _depth_size_of(view))
    if size is None:
        return views
    views = [replace(view, depth_size=size) if view.load_depth else view for view in views]
    if all(view.K_depth is not None or view.K_color is None for view in views):
        return views
    color = _first(views, lambda view: view.K_color_size or _color_size_of(view))
    return [
        view
        if view.K_depth is not None or view.K_color is None or color is None
        else replace(view, K_depth=resized(view.K_color, view.K_color_size or color, size))
        for view in views
    ]


def _first(
    views: list[EncodedView], size_of: Callable[[EncodedView], tuple[int, int] | None]
) -> tuple[int, int] | None:
    """Return the size of the first view that has one and can be read."""
    for view in views:
        try:
            if (size := size_of(view)) is not None:
                return size
        except (SceneError, OSError):
            continue  # reading this view says so
    return None


def _depth_size_of(view: EncodedView) -> tuple[int, int] | None:
    if view.load_depth is None:
        return None
    data = view.load_depth()
    if isinstance(data, bytes):
        return depth_size(data, view.where)
    return int(data.shape[0]), int(data.shape[1])


def _color_size_of(view: EncodedView) -> tuple[int, int]:
    return image_size(view.load_color(), view.where, "colour")


def _read_rgb(encoded: EncodedView, divisor: int = 1) -> UInt8[np.ndarray, "H W 3"]:
    data = _load(encoded.load_color, encoded.where, "colour")
    rgb = decode_rgb(data, encoded.where, divisor)
    if _is_of_upright(encoded, data):
        rgb = np.ascontiguousarray(np.rot90(rgb, -read_turns(data, encoded.where)))
    if encoded.K_color is None:
        return rgb
    where = f"{encoded.where}: colour"
    height, width = rgb.shape[0] * divisor, rgb.shape[1] * divisor
    check_fits(encoded.K_color, height, width, where, encoded.K_color_size)
    return undistort_rgb(rgb, encoded.K_color, encoded.lens) if encoded.lens else rgb


def _read_turns(encoded: EncodedView) -> int:
    if encoded.turns is not None:
        return encoded.turns
    data = _load(encoded.load_color, encoded.where, "colour")
    return 0 if _is_of_upright(encoded, data) else read_turns(data, encoded.where)


def _is_of_upright(encoded: EncodedView, data: bytes) -> bool:
    """Say whether the source's intrinsics are of the image as EXIF turns it, by their size."""
    if encoded.K_color_size is None or not data.startswith((JPEG_SIGNATURE, PNG_SIGNATURE)):
        return False
    height, width = image_size(data, encoded.where, "colour")
    is_turned = encoded.K_color_size == (width, height) != (height, width)
    return is_turned and read_turns(data, encoded.where) % 2 == 1


def _read_depth(encoded: EncodedView) -> Float32[np.ndarray, "h w"]:
    assert encoded.load_depth is not None
    data = _load(encoded.load_depth, encoded.where, "depth")
    depth_m = decode_depth_m(data, encoded.where, unit_m=encoded.unit_m)
    height, width = depth_m.shape
    if encoded.depth_size is not None and (height, width) != encoded.depth_size:
        raise SceneError(
            f"{encoded.where}: depth is {height}x{width}, the scene's first is "
            f"{encoded.depth_size[0]}x{encoded.depth_size[1]}; export all depth images of a scene "
            "at one size"
        )
    if encoded.K_depth is None:
        return depth_m
    check_fits(encoded.K_depth, height, width, f"{encoded.where}: depth")
    return undistort_depth(depth_m, encoded.K_depth, encoded.lens) if encoded.lens else depth_m


def _load(load: Callable[[], T], where: str, what: str) -> T:
    try:
        return load()
    except OSError as error:
        raise SceneError(f"{where}: {what} image cannot be read ({error})") from error
