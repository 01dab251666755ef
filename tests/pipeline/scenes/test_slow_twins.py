"""What is compiled or left to a faster decoder, against the plain way: the same bits."""

import io
import struct
import zlib
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from vega3d.pipeline.scenes import images
from vega3d.pipeline.scenes.depth_images import decode_depth_m
from vega3d.pipeline.scenes.diagnosis import (
    Convention,
    _any_axes,
    _by_convention,
    _Cameras,
    _double_conventions,
)
from vega3d.pipeline.scenes.geometry import token_positions
from vega3d.pipeline.scenes.images import decode_rgb
from vega3d.pipeline.scenes.medians import median
from vega3d.pipeline.scenes.reprojection import PosedDepth, agreement
from vega3d.pipeline.scenes.trials import tried

RNG = np.random.default_rng(0)
K = np.array([[55.0, 0, 33], [0, 57, 23], [0, 0, 1]])


def posed(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = np.linalg.qr(np.eye(3) + 0.1 * rng.standard_normal((3, 3)))[0]
    pose[:3, 3] = 0.1 * rng.standard_normal(3)
    return pose


def cameras_of(conventions: list[Convention], views: list[PosedDepth]) -> _Cameras:
    return _Cameras(conventions, {id(view): _by_convention(view) for view in views})


def numpy_medians(depth_m: np.ndarray, pose: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Every pixel to the world in float32, then a partition a cell and axis."""
    height, width = depth_m.shape
    col_ray = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    row_ray = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    z = np.where((depth_m > 0) & np.isfinite(depth_m), depth_m, np.float32(np.nan))
    found = np.full((len(rows), 3), np.nan, dtype=np.float32)
    for axis in range(3):
        x, y, along, origin = pose[axis]
        slope = (y * row_ray + along).astype(np.float32)[:, None] + (x * col_ray).astype(np.float32)
        world = slope * z + np.float32(origin)
        for index, (top, bottom) in enumerate(rows):
            block = world[top:bottom].ravel()
            seen = block[~np.isnan(block)]
            if seen.size:
                middle = [(seen.size - 1) // 2, seen.size // 2]
                found[index, axis] = np.partition(seen, middle)[middle].mean(dtype=np.float32)
    return found


@pytest.mark.parametrize("kind", ["noise", "outliers", "steps", "one", "rare", "none"])
def test_medians_of_positions(kind: str) -> None:
    size = (48, 64)
    depth = {
        "noise": RNG.uniform(0.5, 5, size),
        "outliers": np.where(RNG.random(size) < 0.01, 6e4, RNG.uniform(1, 1.01, size)),
        "steps": np.round(RNG.uniform(1, 3, size), 1),
        "one": np.ones(size),
        "rare": np.where(RNG.random(size) < 0.02, np.nan, 0) + RNG.integers(0, 2, size),
        "none": np.where(RNG.random(size) < 0.5, np.inf, -1.0),
    }[kind].astype(np.float32)
    rows = np.stack([np.arange(6) * 8, np.arange(6) * 8 + 8], axis=1)
    every = np.array([[0.0, 64.0]])
    found = token_positions(depth, K, K, posed(1), *size, rows.astype(float), every)
    np.testing.assert_array_equal(found.world_xyz[:, 0], numpy_medians(depth, posed(1), rows))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 33, 500])
def test_a_median_is_numpys_whatever_the_values(count: int) -> None:
    wide = np.exp(RNG.uniform(-80, 80, count)) * RNG.choice([-1, 1], count)
    for values in (
        RNG.standard_normal(count),
        RNG.integers(-2, 3, count),
        wide,
        np.where(RNG.random(count) < 0.3, np.inf, RNG.standard_normal(count)),
        np.full(count, -0.5),
        np.append(np.full(count - 1, 7.0), -7.0),
    ):
        single = values.astype(np.float32)
        middle = [(count - 1) // 2, count // 2]
        expected = np.partition(single, middle)[middle].mean(dtype=np.float32)
        assert median(single) == expected


def test_many_conventions_at_once() -> None:
    views = [PosedDepth(RNG.uniform(0, 3, (48, 64)).astype(np.float32), K, posed(i))
             for i in range(3)]  # fmt: skip
    pairs = [(views[0], views[1]), (views[1], views[2])]
    conventions = [*list(_double_conventions())[::7], *list(_any_axes())[::11]]
    shares, met = tried(pairs, cameras_of(conventions, views), most_readings=400)
    for index, convention in enumerate(conventions):
        taken = [(convention.of(first), convention.of(second)) for first, second in pairs]
        plain = agreement(taken, most_readings=400)
        assert shares[index] == pytest.approx(plain.error_share, rel=1e-9, nan_ok=True)
        assert met[index] == plain.met_share


def test_conventions_that_are_no_better_are_let_go_and_the_others_are_the_same() -> None:
    views = [PosedDepth(RNG.uniform(1, 3, (48, 64)).astype(np.float32), K, posed(i))
             for i in range(4)]  # fmt: skip
    pairs = list(pairwise(views))
    cameras = cameras_of([*_double_conventions(), *_any_axes()], views)
    shares, met = tried(pairs, cameras, most_readings=400)
    (bound,) = np.quantile(shares[np.isfinite(shares)], [0.2])
    found, found_met = tried(pairs, cameras, most_readings=400, below=bound)
    better = shares < bound
    assert 5 < better.sum() < 0.5 * len(shares)
    np.testing.assert_array_equal(found[better], shares[better])
    np.testing.assert_array_equal(found_met[better], met[better])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(shares))
    assert np.isinf(found[shares >= bound]).all()


@pytest.mark.parametrize("size", [(5, 7), (31, 1), (1, 1)])
def test_every_filter_of_a_png(size: tuple[int, int]) -> None:
    readings = RNG.integers(0, 1 << 16, size).astype(np.uint16)
    lines = [bytes([row % 5]) + RNG.integers(0, 256, 2 * size[1], dtype=np.uint8).tobytes()
             for row in range(size[0])]  # fmt: skip
    for scanlines in (
        b"".join(lines),
        b"".join(b"\0" + r.astype(">u2").tobytes() for r in readings),
    ):
        data = b"\x89PNG\r\n\x1a\n"
        header = struct.pack(">IIBBBBB", size[1], size[0], 16, 0, 0, 0, 0)
        for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(scanlines)), (b"IEND", b"")):
            data += struct.pack(">I", len(body)) + name + body
            data += struct.pack(">I", zlib.crc32(name + body))
        plain = np.array(Image.open(io.BytesIO(data))).astype(np.float32) / np.float32(1000)
        plain[plain == np.float32(65.535)] = 0
        np.testing.assert_array_equal(decode_depth_m(data, "a view"), plain)


@pytest.mark.skipif(images._decoder() is None, reason="simplejpeg has no wheel here")
@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True},
     {"restart_marker_blocks": 3}, {"keep_rgb": True}],
)  # fmt: skip
def test_the_faster_decoder_gives_the_pixels_of_pillow(options: dict[str, object]) -> None:
    coarse = Image.fromarray(RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    for size in ((97, 70), (16, 16), (1, 1)):
        buffer = io.BytesIO()
        coarse.resize(size).save(buffer, "JPEG", **options)
        data = buffer.getvalue()
        fast = images._decode_fast(data, Image.open(buffer), 1)
        assert fast is not None
        np.testing.assert_array_equal(fast, np.array(Image.open(buffer).convert("RGB")))
        assert decode_rgb(data, "a view").tobytes() == fast.tobytes()


def test_other_jpegs_are_left_to_pillow() -> None:
    for mode in ("L", "CMYK"):
        buffer = io.BytesIO()
        Image.new(mode, (20, 10), 77).save(buffer, "JPEG")
        assert images._decode_fast(buffer.getvalue(), Image.open(buffer), 1) is None
        expected = np.array(Image.open(buffer).convert("RGB"))
        np.testing.assert_array_equal(decode_rgb(buffer.getvalue(), "a view"), expected)
