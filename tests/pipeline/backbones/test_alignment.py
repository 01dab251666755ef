"""A bright square's energy lands in the cells of the common grid that look at it."""

from typing import Any

import numpy as np
import pytest
from small_backbones import SMALL, SmallModels

from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.grid import grid_cells, pool_to_grid
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.registry import backbone_names

NAMES = [name for name in backbone_names() if SMALL[name].sees]
SHARP = ["wan2.1-t2v", "siglip", "rgb"]
"""Whose small networks have enough tokens, and keep a change where it is."""

GRID = (7, 7)
"""Coarser than what is stored: a cell is then wider than the 1 to 2 tokens a random VAE blurs."""

FINER: dict[str, dict[str, Any]] = {
    "svd": {"blocks": (5,)},
    "sd2.1": {"blocks": (5,)},
    "ltx-video": {"resolution": (192, 256)},
    "qwen2.5-vl-vision": {"resolution": (112, 112)},
}
"""Settings that give the others tokens to a quarter of an image, or whole windows."""


def centroid(found: np.ndarray) -> np.ndarray:
    return np.average(np.indices(GRID).reshape(2, -1), axis=1, weights=np.nan_to_num(found).ravel())


def energy(backbone: Backbone, height: int, width: int, cell: tuple[int, int]) -> np.ndarray:
    """Return each common cell's squared change when a square in one cell lights up."""
    token_map = backbone.token_map(height, width)
    rows, cols = grid_cells(token_map, height, width, GRID)
    top, bottom = np.round(rows[cell[0]]).astype(int)
    left, right = np.round(cols[cell[1]]).astype(int)
    dark = np.full((1, height, width, 3), 90, dtype=np.uint8)
    lit = dark.copy()
    lit[:, top:bottom, left:right] = 255
    tap = backbone.taps[0]
    features = [backbone.encode(x, scene_id="s", view_ids=["a"])[tap] for x in (dark, lit)]
    change = (features[1] - features[0]).numpy()
    pooled, _ = pool_to_grid(change, token_map, height, width, GRID)
    found = (pooled[0] ** 2).sum(axis=-1)
    # Attention spreads a little of any change evenly over all tokens: that is no place.
    return np.maximum(found - np.nanmedian(found), 0)


@pytest.mark.one_quick
@pytest.mark.parametrize("name", SHARP)
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(480, 640), (420, 747), (640, 480), (400, 400)])
@pytest.mark.parametrize("cell", [(2, 2), (3, 4)])
def test_a_bright_square_lands_in_its_cell(
    models: SmallModels, name: str, fit: str, size: tuple[int, int], cell: tuple[int, int]
) -> None:
    found = energy(models.load(name, fit=fit), *size, cell)
    assert np.unravel_index(np.nanargmax(found), GRID) == cell
    around = found[cell[0] - 1 : cell[0] + 2, cell[1] - 1 : cell[1] + 2]
    assert np.nansum(around) > 0.8 * np.nansum(found)  # 9 cells of 49
    # The release's misalignment, 3 rows of 14, would be 1.5 here.
    assert np.abs(centroid(found) - cell).max() < 0.5


@pytest.mark.one_quick
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_a_bright_quarter_changes_its_quarter_most(
    models: SmallModels, name: str, fit: str
) -> None:
    height, width = 480, 640
    backbone = models.load(name, fit=fit, **FINER.get(name, {}))
    token_map = backbone.token_map(height, width)
    dark = np.full((1, height, width, 3), 90, dtype=np.uint8)
    seen = backbone.encode(dark, scene_id="s", view_ids=["a"])[backbone.taps[0]]
    share = np.empty((4, 4))  # of a change, by the quarter that is lit and the one that changes
    for quarter in range(4):
        row, col = divmod(quarter, 2)
        lit = dark.copy()
        lit[:, row * 240 : (row + 1) * 240, col * 320 : (col + 1) * 320] = 255
        change = backbone.encode(lit, scene_id="s", view_ids=["a"])[backbone.taps[0]] - seen
        pooled, _ = pool_to_grid(change.numpy(), token_map, height, width, (2, 2))
        energy = (pooled[0] ** 2).sum(axis=-1).ravel()
        share[quarter] = energy / energy.sum()
    # Random attention favours some tokens whatever is lit: what counts is who gains.
    assert list((share - share.mean(axis=0)).argmax(axis=1)) == [0, 1, 2, 3]


@pytest.mark.one_quick
@pytest.mark.parametrize("cell", [(0, 0), (6, 6), (0, 3), (6, 3)])
@pytest.mark.parametrize("name", SHARP)
def test_padding_shows_the_images_border(
    models: SmallModels, name: str, cell: tuple[int, int]
) -> None:
    found = energy(models.load(name, fit="pad"), 480, 640, cell)
    assert np.unravel_index(np.nanargmax(found), GRID) == cell


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARP)
def test_auto_resolution_lines_up(models: SmallModels, name: str) -> None:
    found = energy(models.load(name, resolution="auto"), 420, 747, (2, 5))
    assert np.unravel_index(np.nanargmax(found), GRID) == (2, 5)


@pytest.mark.one_quick
@pytest.mark.parametrize("name", NAMES)
def test_what_a_crop_hides_is_nan_and_changes_nothing(models: SmallModels, name: str) -> None:
    backbone = models.load(name, fit="crop")
    found = energy(backbone, 400, 1200, (3, 0))
    assert np.isnan(found[:, 0]).all()
    assert np.isnan(found[:, 6]).all()
    assert np.isfinite(found[:, 3]).all()
    assert np.nanmax(found) == 0


@pytest.mark.slow
def test_prior_and_semantic_tokens_of_one_index_look_at_the_same_pixels(
    models: SmallModels,
) -> None:
    for size in [(480, 640), (968, 1296), (300, 900)]:
        maps = [models.load(name, fit="pad").token_map(*size) for name in NAMES]
        cells = [grid_cells(token_map, *size, GRID) for token_map in maps]
        for others in cells[1:]:
            np.testing.assert_array_equal(others, cells[0])


@pytest.mark.slow
def test_the_reference_squash_and_crop_is_told_truly(models: SmallModels) -> None:
    backbone = load_backbone(
        **models.model("wan2.1-t2v"),
        recipe="reference",
        fit="crop",
        blocks=(1,),
        resolution=(240, 416),
    )
    found = energy(backbone, 480, 640, (2, 4))
    assert np.unravel_index(np.nanargmax(found), GRID) == (2, 4)
    rows, _ = grid_cells(backbone.token_map(480, 640), 480, 640, GRID)
    # 240 of 416 rows of the square: the top 21 % of the image are never seen.
    assert rows[0, 0] == pytest.approx(480 * 88 / 416)
