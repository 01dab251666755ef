"""Encoders without weights: values by hand, and how the score sees them."""

import numpy as np
import pytest

from vega3d.evaluate import consistency
from vega3d.pipeline.backbones.loading import load_backbone


def encode(name: str, rgb: np.ndarray, **settings: object) -> np.ndarray:
    backbone = load_backbone(name, **settings)
    ids = [str(index) for index in range(len(rgb))]
    (features,) = backbone.encode(rgb, scene_id="room", view_ids=ids).values()
    return features.numpy()


def test_rgb_is_the_mean_colour_of_each_patch() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    found = encode("rgb", rgb, resolution=(32, 48))
    expected = rgb[1, 16:32, 32:48].mean(axis=(0, 1)) / 127.5 - 1
    np.testing.assert_allclose(found[1, 1, 2], expected, atol=1e-6)


def test_position_is_the_place_in_the_image_whatever_its_size() -> None:
    small = encode("position", np.zeros((1, 64, 64, 3), np.uint8), resolution=(64, 64))
    large = encode("position", np.full((1, 640, 640, 3), 9, np.uint8), resolution=(64, 64))
    np.testing.assert_allclose(small, large, atol=1e-6)
    # Token (0, 1) of 4: rows at 1/8, columns at 3/8 of the image; the slowest wave is half a turn.
    np.testing.assert_allclose(small[0, 0, 1, 0], np.sin(np.pi / 8), atol=1e-6)
    np.testing.assert_allclose(small[0, 0, 1, 16], np.cos(np.pi / 8), atol=1e-6)
    np.testing.assert_allclose(small[0, 0, 1, 32], np.sin(3 * np.pi / 8), atol=1e-6)


def test_random_scores_no_better_than_chance_and_position_does_not_move() -> None:
    views = np.zeros((6, 128, 128, 3), np.uint8)
    rng = np.random.default_rng(1)
    world_xyz = rng.uniform(0, 0.4, (6, 8, 8, 3)).astype(np.float32)  # 64 voxels, often shared
    valid = np.ones((6, 8, 8), bool)
    noise = encode("random", views, resolution=(128, 128))
    scores = consistency(noise, world_xyz, valid, voxel_m=0.1)
    assert abs(scores.above_chance) < 0.05
    assert abs(float(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1])) < 0.05
    place = encode("position", views, resolution=(128, 128))
    np.testing.assert_array_equal(place[0], place[5])


def test_a_seed_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="noise_seed must lie in"):
        load_backbone("random", noise_seed=-1)
