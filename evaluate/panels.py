"""Pictures of chosen scenes: views, joint PCA, and how well each token agrees with its neighbours.

The heat map is the paper's Fig. 2a: each token's cosine with the cell of the NEXT view that shares
its voxel. PNG data URIs, one a view, so that the page lays them out itself.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vega3d.evaluate.cells import Tokens, cell_vectors, find_cells
from vega3d.evaluate.config import ReportConfig
from vega3d.evaluate.sources import opened
from vega3d.evaluate.summary import Row
from vega3d.evaluate.units import read_geometry, read_tokens
from vega3d.pipeline.pictures import joint_pca

HEAT_MAP = "viridis"
_UNSEEN = (128, 128, 128, 70)


MOST_PANELS = 3
"""Kinds of features drawn for a scene at most: the best tap of each store, best store first."""


@dataclass(frozen=True, slots=True)
class Strip:
    """A labelled row of pictures, one a view."""

    label: str
    note: str
    pictures: tuple[str, ...]
    """Data URIs."""


@dataclass(frozen=True, slots=True)
class ScenePanel:
    """What is shown of one scene."""

    scene_id: str
    view_ids: tuple[str, ...]
    strips: tuple[Strip, ...]
    aspect: float
    """Width over height of the images, to unsquash the tiles."""


def scene_panel(
    rows: Sequence[Row], scene_id: str, views: Sequence[str], shown: int, config: ReportConfig
) -> ScenePanel:
    """Draw neighbouring views of a scene for each kind of feature.

    Args:
        rows: Kinds of features, in the order to be shown.
        scene_id: A scene that all of them hold.
        views: Ids of the views that were compared.
        shown: Views drawn at most: neighbours, from the middle of the scene.
        config: Settings of the score.
    """
    start = max((len(views) - shown) // 2, 0)
    drawn = slice(start, start + shown)
    first = opened(rows[0].source.urls, rows[0].source.digest)
    strips = [
        Strip("views", "", _views(first.preview(scene_id), first.view_ids(scene_id), views, drawn))
    ]
    maps = []
    for row in rows:
        urls, digest = row.source.urls, row.source.digest
        geometry = read_geometry(urls, digest, scene_id, tuple(views), config)
        features = opened(urls, digest).features(scene_id, row.tap)[geometry.view_rows]
        tokens = read_tokens(urls, digest, scene_id, row.tap, geometry)
        strips.append(
            Strip(
                row.name,
                "joint PCA",
                tuple(picture_uri(tile) for tile in joint_pca(features)[drawn]),
            )
        )
        heat = adjacent_heat(tokens, geometry.deep.shape[1:], config)[drawn]
        maps.append(_heat_strip(row, scene_id, heat))
    height, width = first.image_size(scene_id)[0]
    aspect = width / height if height else 1.0
    return ScenePanel(scene_id, tuple(views)[drawn], (*strips, *maps), float(aspect))


def adjacent_heat(
    tokens: Tokens, grid: tuple[int, ...], config: ReportConfig
) -> Float[np.ndarray, "V h w"]:
    """Return each token's cosine with the next view's cell of its voxel; NaN where none shares it.

    The last view has no next one and is compared with the one before.
    """
    cells = find_cells(tokens.xyz, tokens.view, config.voxel_m, config.score.anchor)
    vectors = cell_vectors(tokens.unit, cells)
    held = {
        pair: m
        for m, pair in enumerate(zip(cells.voxel.tolist(), cells.view.tolist(), strict=True))
    }
    heat = np.full((tokens.num_views, grid[0] * grid[1]), np.nan)
    voxels = cells.token_voxel()
    for token, (voxel, view) in enumerate(zip(voxels.tolist(), tokens.view.tolist(), strict=True)):
        next_view = view + 1 if view + 1 < tokens.num_views else view - 1
        other = held.get((voxel, next_view))
        if other is not None:
            heat[view, tokens.position[token]] = tokens.unit[token] @ vectors[other]
    return heat.reshape(tokens.num_views, *grid)


def heat_gradient(steps: int = 9) -> str:
    """Return the heat map's colours as a CSS gradient."""
    colours = mpl.colormaps[HEAT_MAP](np.linspace(0, 1, steps))
    return ", ".join(mpl.colors.to_hex(colour) for colour in colours)


def _views(
    preview: UInt8[np.ndarray, "V ph pw 3"], held: Sequence[str], views: Sequence[str], drawn: slice
) -> tuple[str, ...]:
    place = {view: row for row, view in enumerate(held)}
    return tuple(picture_uri(preview[place[view]], photo=True) for view in views[drawn])


def _heat_strip(row: Row, scene_id: str, heat: Float[np.ndarray, "V h w"]) -> Strip:
    """Colour cosines from the scene's random-pair mean to 1."""
    if not np.isfinite(heat).any():
        return Strip(row.name, "no voxel is shared with the next view", _colours(heat, 0.0))
    random = row.records.value(row.tap, "random", scene_id) or 0.0
    mean = float(np.nanmean(heat))
    told = f"with the next view: mean cosine {mean:.3f}, random pairs {random:.3f}"
    return Strip(row.name, told, _colours(heat, min(random, 1.0 - 1e-6)))


def _colours(heat: Float[np.ndarray, "V h w"], zero: float) -> tuple[str, ...]:
    seen = np.isfinite(heat)
    scaled = np.clip((np.where(seen, heat, zero) - zero) / (1.0 - zero), 0.0, 1.0)
    pixels = (mpl.colormaps[HEAT_MAP](scaled) * 255).round().astype(np.uint8)
    pixels[~seen] = _UNSEEN
    return tuple(picture_uri(tile) for tile in pixels)


def picture_uri(pixels: UInt8[np.ndarray, "h w c"], photo: bool = False) -> str:
    """Return pixels as a PNG, or as a JPEG for a photo: a data URI."""
    out = BytesIO()
    image = Image.fromarray(pixels)
    kind = "jpeg" if photo else "png"
    if photo:
        image.save(out, format="JPEG", quality=88)
    else:
        image.save(out, format="PNG", optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
