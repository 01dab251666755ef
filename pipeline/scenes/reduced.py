"""Views whose JPEGs are decoded at 1/2, 1/4 or 1/8 of their sides, which takes less time.

Such a JPEG leaves out the frequencies that its pixels cannot show before it makes any (libjpeg's
scaled inverse DCT); all that follows has a quarter of the pixels or less.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.images import image_size, is_heic
from vega3d.pipeline.scenes.integrity import JPEG_SIGNATURE, PNG_SIGNATURE
from vega3d.pipeline.scenes.scene import View


def reduced(
    views: Sequence[View], divisor_of: Callable[[int, int], int] | None
) -> tuple[Sequence[View], int]:
    """Return a scene's views, their images and cameras at a part of their sides or as they are.

    All images of a scene have one size. The first that can be read decides: where it is a JPEG, an
    image of another format among them is brought to their size by means. Views whose images do not
    come as files (a video), or are undistorted, stay as they are.

    Args:
        views: Those that will be decoded.
        divisor_of: Says by what the sides (rows, columns) of an image are to be divided: 1, 2, 4
            or 8. None: by 1.

    Returns:
        The views, and by what their sides were divided.
    """
    if divisor_of is None or any(view.read_rgb_at is None for view in views):
        return views, 1
    divisor = _divisor(views, divisor_of)
    return (views if divisor == 1 else [_reduced(view, divisor) for view in views]), divisor


def _divisor(views: Sequence[View], divisor_of: Callable[[int, int], int]) -> int:
    for view in views:
        try:
            data = view.read_color_bytes() if view.read_color_bytes else b""
            if data.startswith(PNG_SIGNATURE) or is_heic(data):
                return 1
            if not data.startswith(JPEG_SIGNATURE):
                continue
            height, width = image_size(data, view.view_id, "colour")
        except (SceneError, OSError):
            continue  # decoding this view says so
        # Whichever way up it will be.
        return min(divisor_of(height, width), divisor_of(width, height))
    return 1


def _reduced(view: View, divisor: int) -> View:
    assert view.read_rgb_at is not None  # asked by the caller
    part = np.diag([1 / divisor, 1 / divisor, 1.0])
    size = view.K_color_size
    return replace(
        view,
        read_rgb=partial(view.read_rgb_at, divisor),
        read_rgb_at=None,
        K_color=None if view.K_color is None else part @ view.K_color,
        K_color_size=None if size is None else (size[0] // divisor, size[1] // divisor),
        read_color_bytes=None,  # not these pixels
    )
