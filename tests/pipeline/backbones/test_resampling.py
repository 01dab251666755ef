"""Compiled resizing and pooling, against Pillow and against sums of numpy's."""

import numpy as np
import pytest
from PIL import Image

from vega3d.pipeline.backbones import resampling
from vega3d.pipeline.backbones.box_means import areas, box_means
from vega3d.pipeline.backbones.grid import plan_placement, pool_to_grid, pooling_weights
from vega3d.pipeline.backbones.resampling import BITS, kernel_weights, resize

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("image", "size", "margins"),
    [
        ((121, 162), (60, 80), (0.0, 0.0)),
        ((97, 131), (97, 131), (0.0, 0.0)),
        ((60, 80), (121, 160), (0.0, 0.0)),  # taken from the middle of what follows
        ((150, 83), (60, 33), (3.3, 0.0)),  # a box that 32 bits round
        ((83, 125), (64, 96), (0.0, 0.25)),
        ((70, 900), (7, 90), (0.0, 0.0)),
        ((40, 200), (30, 20), (0.0, 0.0)),  # the width shrinks by more, as for previews
        ((200, 40), (20, 30), (0.0, 0.0)),  # the height does: Pillow's own
    ],
)
def test_resizes_to_the_bytes_of_pillow(
    image: tuple[int, int], size: tuple[int, int], margins: tuple[float, float]
) -> None:
    noise = RNG.integers(0, 256, (*image, 3), dtype=np.uint8)
    box = (margins[1], margins[0], image[1] - margins[1], image[0] - margins[0])
    for pixels in (noise, np.where(noise > 127, 255, 0).astype(np.uint8)):  # the latter overshoots
        for name, kind in (("bicubic", Image.BICUBIC), ("box", Image.BOX)):
            expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], kind, box=box))
            np.testing.assert_array_equal(resize(pixels, size, name, box), expected)  # type: ignore[arg-type]


def test_means_of_areas_are_the_bytes_of_the_general_way() -> None:
    """Which Pillow goes another way where the axes shrink unlike; see `_ALIKE`."""
    taken = 0
    for _ in range(150):
        rows, cols = (int(side) for side in RNG.integers(8, 200, 2))
        size = tuple(int(side) for side in RNG.integers(4, 60, 2))
        pixels = RNG.integers(0, 256, (rows, cols, 3), dtype=np.uint8)
        pixels[: rows // 2] |= 255 * RNG.integers(0, 2, dtype=np.uint8)
        margin = float(RNG.choice([0.0, 0.25, 1.7]))
        across = ("box", cols, size[1], margin, cols - margin)
        down = ("box", rows, size[0], margin, rows - margin)
        wide, high = areas(kernel_weights(*across)), areas(kernel_weights(*down))
        if wide is None or high is None:
            continue
        taken += 1
        slow = np.empty((*size, 3), dtype=np.uint8)
        resampling._resize(pixels, *resampling._weights(*across), *resampling._weights(*down), slow)
        np.testing.assert_array_equal(box_means(pixels, wide, high, BITS), slow)
    assert taken > 100


def test_areas_are_left_to_the_general_way_where_they_are_no_plain_means() -> None:
    assert areas(kernel_weights("bicubic", 100, 20, 0.0, 100.0)) is None
    assert areas(kernel_weights("box", 1000, 2, 0.0, 1000.0)) is None  # sums over 16 bits
    alone = areas(kernel_weights("box", 7, 7, 0.0, 7.0))
    assert alone is not None
    assert [values.tolist() for values in alone] == [list(range(7)), [1] * 7, [1 << BITS] * 7]


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_pools_to_the_bits_of_products_in_float64(fit: str) -> None:
    """In the store's float16 always; in float32 where a BLAS fuses products as we do."""
    where = plan_placement(97, 131, (128, 96), fit).token_map(16)  # type: ignore[arg-type]
    features = RNG.standard_normal((2, 8, 6, 33)).astype(np.float32)
    rows, cols, coverage = pooling_weights(where, 97, 131, (4, 3))
    wide = np.einsum("ih,jw,vhwc->vijc", rows, cols, features.astype(np.float64))
    expected = np.where(coverage[..., None] > 0, wide, np.nan)
    found, _ = pool_to_grid(features, where, 97, 131, (4, 3))
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-8)
    stored = expected.astype(np.float32).astype(np.float16)
    np.testing.assert_array_equal(found.astype(np.float16), stored)


def test_what_no_cell_looks_at_is_not_read() -> None:
    where = plan_placement(60, 120, (96, 96), "pad").token_map(16)
    features = np.ones((1, 6, 6, 4), dtype=np.float32)
    features[:, 0] = np.inf  # of the padding alone
    found, _ = pool_to_grid(features, where, 60, 120, (2, 2))
    np.testing.assert_array_equal(found, 1)
