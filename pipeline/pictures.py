"""Pictures a person can look at: views beside the joint PCA of their features."""

import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.files import whole_file
from vega3d.pipeline.remarks import remarks_on
from vega3d.pipeline.store.store import JoinedStore, Store

_log = logging.getLogger(__name__)
_MARGIN = 8
_HEADING = 26


def joint_pca(features: Float[np.ndarray, "V gh gw C"]) -> UInt8[np.ndarray, "V gh gw 3"]:
    """Return the first three principal components of all of a scene's tokens, as colours.

    Args:
        features: NaN where a token was not seen.

    Returns:
        Each component stretched from its 1st to its 99th percentile over all views, so that one
        colour means one thing in the whole scene; unseen tokens are grey.
    """
    tokens = features.reshape(-1, features.shape[-1]).astype(np.float64)
    seen = np.isfinite(tokens).all(axis=1)
    colours = np.full((len(tokens), 3), 0.5)
    centred = tokens[seen] - tokens[seen].mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, :-4:-1]
    axes = axes * np.where(axes.sum(axis=0) < 0, -1.0, 1.0)  # a picture needs one sign
    parts = centred @ axes
    low, high = np.percentile(parts, [1, 99], axis=0)
    colours[seen, : parts.shape[1]] = (parts - low) / np.maximum(high - low, 1e-12)
    pixels = (colours.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels.reshape(*features.shape[:-1], 3)


def write_pictures(
    stores: Sequence[Store | JoinedStore], out: str, *, num_views: int = 8, num_scenes: int = 0
) -> list[Path]:
    """Write one PNG a scene: its views, and below them the joint PCA of each tap of each store.

    Args:
        stores: The first one's scenes and previews are shown; others add their taps.
        out: Folder for `<scene_id, percent-encoded>.png`.
        num_views: Columns at most, spread evenly over the scene's views.
        num_scenes: Scenes at most; 0 draws all.
    """
    for store in stores:
        for remark in remarks_on(store.identity["config"]):
            _log.warning("%s: %s", ", ".join(store.taps), remark)
    folder = Path(out)
    written = []
    first = stores[0]
    for scene_id in first.scene_ids[: num_scenes or None]:
        shared = [
            view_id
            for view_id in first.view_ids(scene_id)
            if all(view_id in store.view_ids(scene_id) for store in _holding(stores, scene_id))
        ]
        if not shared:
            raise StoreError(
                f"{scene_id}: the stores hold no view in common; extract them with the same "
                "--views and --sampling to draw them together"
            )
        chosen = [
            shared[i] for i in np.unique(np.linspace(0, len(shared) - 1, num_views).astype(int))
        ]
        height, width = first.image_size(scene_id)[0]
        picture = _sheet(
            scene_id,
            chosen,
            _rows(stores, scene_id, chosen),
            aspect=float(np.clip(width / height, 0.5, 2.0)) if height else 1.0,
        )
        path = folder / f"{quote(scene_id, safe='')}.png"
        with whole_file(path) as temporary:
            picture.save(temporary, format="PNG")
        written.append(path)
    return written


def _holding(stores: Sequence[Store | JoinedStore], scene_id: str) -> list[Store | JoinedStore]:
    return [store for store in stores if scene_id in store.scene_ids]


def _rows(
    stores: Sequence[Store | JoinedStore], scene_id: str, view_ids: Sequence[str]
) -> list[tuple[str, np.ndarray]]:
    """Return a name and the tiles of each row of a picture; views are matched by their ids."""
    rows: list[tuple[str, np.ndarray]] = []
    for store in _holding(stores, scene_id):
        places = [store.view_ids(scene_id).index(view_id) for view_id in view_ids]
        preview = store.preview(scene_id)[places]
        if not rows and preview.any():  # imported features may come without pictures
            rows.append(("views", preview))
        for tap in store.taps:
            place = f" ({Path(store.url).name})" if len(stores) > 1 else ""
            name = f"{store.identity['config']['backbone']}, {tap}{place}: joint PCA"
            rows.append((name, joint_pca(store.features(scene_id, tap))[places]))
    return rows


def _sheet(
    scene_id: str,
    view_ids: Sequence[str],
    rows: Sequence[tuple[str, np.ndarray]],
    aspect: float,
    tile_px: int = 168,
) -> Image.Image:
    size = (round(tile_px * aspect), tile_px)
    width = _MARGIN + len(view_ids) * (size[0] + _MARGIN)
    height = _HEADING + len(rows) * (_HEADING + tile_px) + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    title, text = ImageFont.load_default(17), ImageFont.load_default(14)
    pen.text((_MARGIN, 5), scene_id, fill="black", font=title)
    top = _HEADING
    for name, tiles in rows:
        told = f"views {', '.join(view_ids)}" if name == "views" else name
        pen.text((_MARGIN, top + 6), told, fill="#444444", font=text)
        top += _HEADING
        for column, tile in enumerate(tiles):
            smooth = Image.Resampling.BICUBIC if name == "views" else Image.Resampling.NEAREST
            place = (_MARGIN + column * (size[0] + _MARGIN), top)
            sheet.paste(Image.fromarray(tile).resize(size, smooth), place)
        top += tile_px
    return sheet
