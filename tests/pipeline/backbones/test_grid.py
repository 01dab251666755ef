import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vega3d.pipeline.backbones.grid import (
    PAD_GREY,
    TokenMap,
    grid_cells,
    place,
    plan_placement,
    pool_to_grid,
)
from vega3d.pipeline.backbones.settings import auto_canvas

FITS = ("pad", "crop", "stretch")


def pool_by_sampling(features, token_map, height, width, grid, samples=60):  # noqa: ANN001, ANN201
    """Average the token under each of many points of every cell: the slow twin of pool_to_grid."""
    pooled = np.full((len(features), *grid, features.shape[3]), np.nan)
    coverage = np.zeros(grid)
    offsets = (np.arange(samples) + 0.5) / samples
    for r in range(grid[0]):
        y = (r + offsets) * height / grid[0]
        rows = np.floor(token_map.scale_row * y + token_map.offset_row).astype(int)
        for c in range(grid[1]):
            x = (c + offsets) * width / grid[1]
            cols = np.floor(token_map.scale_col * x + token_map.offset_col).astype(int)
            seen_rows = rows[(rows >= 0) & (rows < token_map.rows)]
            seen_cols = cols[(cols >= 0) & (cols < token_map.cols)]
            coverage[r, c] = len(seen_rows) * len(seen_cols) / samples**2
            if coverage[r, c]:
                pooled[:, r, c] = features[:, seen_rows][:, :, seen_cols].mean(axis=(1, 2))
    return pooled, coverage


def test_pad_centres_the_whole_image() -> None:
    placement = plan_placement(480, 640, (480, 832), "pad")
    assert placement.target == (0, 96, 480, 736)
    token_map = placement.token_map(16)
    assert (token_map.rows, token_map.cols) == (30, 52)
    assert token_map.scale_row * 480 + token_map.offset_row == pytest.approx(30)
    assert token_map.scale_col * 0 + token_map.offset_col == pytest.approx(6)  # 96 px / 16
    assert token_map.scale_col * 640 + token_map.offset_col == pytest.approx(46)


def test_crop_takes_the_middle() -> None:
    placement = plan_placement(100, 300, (480, 480), "crop")
    assert placement.source == pytest.approx((0, 100, 100, 200))
    token_map = placement.token_map(16)
    assert token_map.scale_col * 100 + token_map.offset_col == pytest.approx(0)
    assert token_map.scale_col * 200 + token_map.offset_col == pytest.approx(30)


def test_stretch_fills_the_canvas() -> None:
    token_map = plan_placement(100, 300, (480, 480), "stretch").token_map(16)
    assert token_map.scale_row * 100 == pytest.approx(30)
    assert token_map.scale_col * 300 == pytest.approx(30)


def test_tokens_of_384_px_by_14_cover_378() -> None:
    token_map = plan_placement(384, 384, (384, 384), "stretch").token_map(14)
    assert token_map.rows == token_map.cols == 27
    assert (27 - token_map.offset_row) / token_map.scale_row == pytest.approx(378)


@pytest.mark.parametrize("fit", FITS)
def test_place_puts_pixels_where_the_map_says(fit: str) -> None:
    image = np.zeros((1, 120, 200, 3), dtype=np.uint8)
    image[0, 60:70, 110:120] = 255
    placement = plan_placement(120, 200, (96, 96), fit)
    placed = place(image, placement)[0, :, :, 0].astype(float)
    placed[placed == PAD_GREY] = 0
    y, x = np.average(np.indices(placed.shape).reshape(2, -1) + 0.5, axis=1, weights=placed.ravel())
    one_px = placement.token_map(1)
    # Half a pixel: 8-bit rounding drops the kernel's small tails.
    assert y == pytest.approx(one_px.scale_row * 65 + one_px.offset_row, abs=0.5)
    assert x == pytest.approx(one_px.scale_col * 115 + one_px.offset_col, abs=0.5)


def test_place_pads_with_mid_grey_and_keeps_a_constant() -> None:
    placed = place(
        np.full((2, 30, 60, 3), 200, dtype=np.uint8), plan_placement(30, 60, (64, 64), "pad")
    )
    assert placed.shape == (2, 64, 64, 3)
    assert (placed[:, :16] == PAD_GREY).all()
    assert (placed[:, 16:48] == 200).all()
    assert (placed[:, 48:] == PAD_GREY).all()


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((1, 64, 640, 3), dtype=np.uint8)
    stripes[:, :, ::2] = 255
    placed = place(stripes, plan_placement(64, 640, (64, 64), "stretch"))
    assert np.ptp(placed[:, :, 2:-2].astype(int)) <= 4


@pytest.mark.parametrize(
    ("size", "canvas"),
    [((480, 832), (480, 832)), ((480, 640), (544, 736)), ((832, 480), (832, 480))],
)
def test_auto_keeps_the_aspect_at_1560_tokens(
    size: tuple[int, int], canvas: tuple[int, int]
) -> None:
    assert auto_canvas(*size, 1560, 16) == canvas


@given(st.integers(16, 4000), st.integers(16, 4000))
def test_auto_stays_near_its_tokens(height: int, width: int) -> None:
    rows, cols = auto_canvas(height, width, 1560, 16)
    assert rows % 16 == cols % 16 == 0
    if 0.1 < height / width < 10:
        assert rows * cols / 256 == pytest.approx(1560, rel=0.06)
        assert rows / cols == pytest.approx(height / width, rel=0.06)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(480, 640), (300, 1000), (968, 1296), (1000, 210)])
@pytest.mark.parametrize(("canvas", "patch"), [((480, 640), 16), ((384, 384), 14), ((96, 224), 16)])
def test_pooling_equals_sampling(
    fit: str, size: tuple[int, int], canvas: tuple[int, int], patch: int
) -> None:
    token_map = plan_placement(*size, canvas, fit).token_map(patch)
    shape = (2, token_map.rows, token_map.cols, 3)
    features = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    pooled, coverage = pool_to_grid(features, token_map, *size, (14, 14))
    slow, slow_coverage = pool_by_sampling(features, token_map, *size, (14, 14))
    np.testing.assert_allclose(coverage, slow_coverage, atol=0.04)  # 60 samples an axis
    clear = slow_coverage > 0.05  # a sliver has too few samples to compare with
    assert np.isnan(pooled[:, coverage == 0]).all()
    assert np.isfinite(pooled[:, coverage > 0]).all()
    # Each token edge is off by at most 1/60 of a cell; tokens are about 1 apart.
    np.testing.assert_allclose(pooled[:, clear], slow[:, clear], atol=0.25)
    assert np.abs(pooled[:, clear] - slow[:, clear]).mean() < 0.03


def test_pooling_weighs_by_area() -> None:
    token_map = plan_placement(3, 3, (3, 3), "stretch").token_map(1)
    features = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    pooled, coverage = pool_to_grid(features, token_map, 3, 3, (2, 2))
    # Weights 2/3 and 1/3: rows and columns at 1/3 and 5/3, value 3 row + column.
    np.testing.assert_allclose(pooled[0, :, :, 0], [[4 / 3, 8 / 3], [16 / 3, 20 / 3]], rtol=1e-6)
    np.testing.assert_array_equal(coverage, np.ones((2, 2), dtype=np.float32))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(FITS), st.integers(1, 20))
def test_pooling_keeps_a_constant_and_sees_the_whole_image_unless_cropped(
    height: int, width: int, fit: str, cells: int
) -> None:
    token_map = plan_placement(height, width, (96, 128), fit).token_map(16)
    features = np.full((1, token_map.rows, token_map.cols, 1), 7.0, dtype=np.float32)
    pooled, coverage = pool_to_grid(features, token_map, height, width, (cells, cells))
    if fit != "crop":
        np.testing.assert_allclose(coverage, 1.0, rtol=1e-6)
    np.testing.assert_array_equal(pooled[:, coverage > 0], np.float32(7.0))


def test_a_crop_hides_cells() -> None:
    token_map = plan_placement(140, 280, (112, 112), "crop").token_map(16)
    features = np.ones((1, 7, 7, 2), dtype=np.float32)
    pooled, coverage = pool_to_grid(features, token_map, 140, 280, (14, 14))
    # The middle half of the width is seen: cells 3.5 to 10.5 of 14.
    np.testing.assert_allclose(coverage[0], [0] * 3 + [0.5] + [1] * 6 + [0.5] + [0] * 3, atol=1e-6)
    assert np.isnan(pooled[0, :, :3]).all()


def test_pooling_refuses_features_of_another_grid() -> None:
    token_map = plan_placement(10, 10, (32, 32), "pad").token_map(16)
    with pytest.raises(ValueError, match="features are 3x2 tokens, their token map says 2x2"):
        pool_to_grid(np.ones((1, 3, 2, 1), dtype=np.float32), token_map, 10, 10, (2, 2))


def test_area_cells_divide_the_image() -> None:
    token_map = plan_placement(140, 280, (112, 112), "crop").token_map(16)
    rows, cols = grid_cells(token_map, 140, 280, (14, 7))
    np.testing.assert_allclose(rows, [[10 * i, 10 * i + 10] for i in range(14)])
    np.testing.assert_allclose(cols, [[40 * i, 40 * i + 40] for i in range(7)])


@pytest.mark.parametrize("tokens", [45, 80, 30, 52, 14, 9])
def test_adaptive_cells_are_those_that_torch_averages(tokens: int) -> None:
    token_map = TokenMap(
        rows=tokens,
        cols=tokens,
        scale_row=0.5,
        offset_row=-3.0,
        scale_col=0.25,
        offset_col=2.0,
        pooling="adaptive",
    )
    rows, cols = grid_cells(token_map, 100, 100, (14, 14))
    one_hot = torch.eye(tokens)[:, None]  # token i alone is 1
    seen = torch.nn.functional.adaptive_avg_pool1d(one_hot, 14)[:, 0].T > 0  # cell x token
    for cell in range(14):
        inside = torch.nonzero(seen[cell])
        first, last = int(inside.min()), int(inside.max())
        assert rows[cell] == pytest.approx([(first + 3) / 0.5, (last + 1 + 3) / 0.5])
        assert cols[cell] == pytest.approx([(first - 2) / 0.25, (last + 1 - 2) / 0.25])


def test_adaptive_pooling_averages_overlapping_bins_of_tokens() -> None:
    features = np.random.default_rng(0).standard_normal((2, 9, 16, 3)).astype(np.float32)
    token_map = TokenMap(
        rows=9,
        cols=16,
        scale_row=1,
        offset_row=-50,  # looks past the image: every cell counts as covered all the same
        scale_col=1,
        offset_col=0,
        pooling="adaptive",
    )
    pooled, coverage = pool_to_grid(features, token_map, 9, 16, (4, 5))
    assert (coverage == 1).all()
    for r in range(4):
        for c in range(5):
            rows = slice(r * 9 // 4, -(-(r + 1) * 9 // 4))
            cols = slice(c * 16 // 5, -(-(c + 1) * 16 // 5))
            expected = features[:, rows, cols].mean(axis=(1, 2))
            np.testing.assert_allclose(pooled[:, r, c], expected, rtol=1e-5, atol=1e-6)


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    canvas=st.sampled_from([(480, 832), (480, 640), (384, 384), (832, 480)]),
    fit=st.sampled_from(["pad", "crop", "stretch"]),
)
def test_every_size_has_a_placement_that_pillow_takes(
    size: tuple[int, int], canvas: tuple[int, int], fit: str
) -> None:
    """Rounding must not put the box at -1e-14, as it did for 1280x720 cropped to 480x832."""
    placement = plan_placement(*size, canvas, fit)
    top, left, bottom, right = placement.source
    assert 0 <= top < bottom <= size[0]
    assert 0 <= left < right <= size[1]
