"""The picture of a check: a view, its neighbour, and the neighbour as the view should see it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vega3d.pipeline.scenes.checking import CheckedScene, glance_at, understood
from vega3d.pipeline.scenes.decoding import DecodedView
from vega3d.pipeline.scenes.diagnosis import Convention
from vega3d.pipeline.scenes.warping import ColoredDepth, difference, warp

_MARGIN, _HEADING = 8, 24
_TILE_PX = 240
"""Rows of a tile."""

Tile = tuple[str, np.ndarray | None]
"""A caption, and what is below it."""


def draw_check(checked: CheckedScene) -> Image.Image | None:
    """Draw a scene as it is read and, where that is wrong, as it should be read.

    None where no two views have depth, pose and intrinsics.
    """
    pair = _middle_pair(checked.decoded)
    if pair is None:
        return None
    one, other = pair
    check = checked.check
    assert check.geometry is not None
    height = _TILE_PX
    width = round(height * float(np.clip(one.size[1] / one.size[0], 0.4, 2.5)))
    names = one.view.view_id, other.view.view_id
    rows: list[list[Tile]] = []
    conventions = [Convention()]
    if check.geometry.state == "misread":
        conventions.append(check.geometry.meant)
    for convention in conventions:
        shown, warped = warp(_colored(one, convention), _colored(other, convention), height, width)
        neighbour, _ = warp(_colored(other, convention), _colored(one, convention), height, width)
        left: list[Tile] = [(f"view {names[0]}", shown), (f"view {names[1]}", neighbour)]
        if rows:
            left = [(f"with {check.geometry.remedy()}", None), ("", None)]
        seen = f"{names[1]} as {names[0]} should see it"
        rows.append([*left, (seen, warped.rgb), ("difference", difference(shown, warped))])
    error_m = check.geometry.error_m
    title = f"{check.scene_id}: {check.verdict}" + (
        "" if error_m is None else f", reprojection {error_m * 1000:.1f} mm"
    )
    return _sheet(title, rows, width, height)


def _middle_pair(decoded: Sequence[DecodedView]) -> tuple[DecodedView, DecodedView] | None:
    """Return the neighbours whose cameras stand as far apart as most do."""
    known = [one for one in decoded if glance_at(one) is not None and one.view.K_color is not None]
    pairs = list(pairwise(known))
    if not pairs:
        return None
    places = [np.asarray(one.view.world_from_camera)[:3, 3] for one in known]
    apart = np.linalg.norm(np.diff(places, axis=0), axis=1)
    return pairs[int(np.argsort(apart, kind="stable")[len(apart) // 2])]


def _colored(one: DecodedView, convention: Convention) -> ColoredDepth:
    meant = understood(one, convention)
    assert meant.depth_m is not None
    assert meant.view.K_color is not None
    assert meant.view.K_depth is not None
    assert meant.view.world_from_camera is not None
    return ColoredDepth(
        rgb=meant.rgb,
        depth_m=meant.depth_m,
        K_color=meant.view.K_color,
        K_depth=meant.view.K_depth,
        world_from_camera=meant.view.world_from_camera,
    )


def _sheet(title: str, rows: Sequence[Sequence[Tile]], width: int, height: int) -> Image.Image:
    size = (
        _MARGIN + len(rows[0]) * (width + _MARGIN),
        _HEADING + len(rows) * (_HEADING + height) + _MARGIN,
    )
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 4), title, fill="black", font=ImageFont.load_default(16))
    for index, row in enumerate(rows):
        top = _HEADING + index * (_HEADING + height)
        for column, (caption, tile) in enumerate(row):
            left = _MARGIN + column * (width + _MARGIN)
            pen.text((left, top + 5), caption, fill="#444444", font=ImageFont.load_default(13))
            if tile is not None:
                sheet.paste(Image.fromarray(tile), (left, top + _HEADING))
    return sheet
