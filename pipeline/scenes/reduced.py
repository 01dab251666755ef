"""Scenes whose JPEGs are decoded at 1/2, 1/4 or 1/8 of their sides, which takes less time.

Such a JPEG leaves out the frequencies that its pixels cannot show before it makes any (libjpeg's
scaled inverse DCT); all that follows has a quarter of the pixels or less.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.images import image_size
from vega3d.pipeline.scenes.integrity import JPEG_SIGNATURE
from vega3d.pipeline.scenes.scene import Scene, View


def reduced(scene: Scene, divisor_of: Callable[[int, int], int]) -> Scene:
    """Return a scene with images and their cameras at a part of their sides, or as it is.

    All images of a scene have one size: its first JPEG decides, and among JPEGs an image of another
    format is brought to theirs by means. A scene whose images do not come as files (a video) or are
    undistorted stays as it is.

    Args:
        scene: As a source gives it.
        divisor_of: Says by what the sides (rows, columns) of an image are to be divided: 1, 2, 4
            or 8.
    """
    if any(view.read_rgb_at is None for view in scene.views):
        return scene
    divisor = _divisor(scene, divisor_of)
    if divisor == 1:
        return scene
    return replace(scene, views=tuple(_reduced(view, divisor) for view in scene.views))


def _divisor(scene: Scene, divisor_of: Callable[[int, int], int]) -> int:
    for view in scene.views:
        try:
            data = view.read_color_bytes() if view.read_color_bytes else b""
            if not data.startswith(JPEG_SIGNATURE):
                return 1
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
        K_color_size=None if size is None else (-(-size[0] // divisor), -(-size[1] // divisor)),
        read_color_bytes=None,  # not these pixels
    )
