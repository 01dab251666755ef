"""One pass over a scene gives the bits that numpy's copies give: the slow twin stands here."""

import numpy as np
import pytest

from vega3d.pipeline.store.moments import scene_moments
from vega3d.pipeline.store.one_pass import channel_absmax, rounded


def plain_moments(features: np.ndarray) -> np.ndarray:
    tokens = features.reshape(-1, features.shape[-1]).astype(np.float64)
    tokens = tokens[~np.isnan(tokens).any(axis=1)]
    mean = tokens.mean(axis=0) if len(tokens) else np.zeros(tokens.shape[1])
    absmax = np.abs(tokens).max(axis=0, initial=0.0)
    tokens -= mean
    deviations = np.einsum("tc,tc->c", tokens, tokens)
    return np.stack([np.full(len(mean), float(len(tokens))), mean, deviations, absmax])


def features(dtype: str, tokens: tuple[int, int, int], channels: int) -> np.ndarray:
    rng = np.random.default_rng(sum(tokens) + channels)
    values = rng.standard_normal((*tokens, channels)) * np.exp(2 * rng.standard_normal(channels))
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f2"])
@pytest.mark.parametrize(
    ("tokens", "channels"), [((3, 14, 14), 1536), ((2, 3, 4), 5), ((1, 1, 1), 1)]
)
def test_moments_are_those_of_numpy_to_the_bit(
    dtype: str, tokens: tuple[int, int, int], channels: int
) -> None:
    values = features(dtype, tokens, channels)
    np.testing.assert_array_equal(scene_moments(values), plain_moments(values))
    values[0, 0] = np.nan  # a token that nobody saw
    np.testing.assert_array_equal(scene_moments(values), plain_moments(values))


def test_small_and_large_halves_are_widened_exactly() -> None:
    bits = np.arange(0x7C00, dtype=np.uint16)  # every one that is finite and not negative
    values = np.stack([bits.view(np.float16), -bits.view(np.float16)])[:, None, None, :]
    np.testing.assert_array_equal(scene_moments(values), plain_moments(values))


def test_the_largest_of_each_channel_is_that_of_what_is_seen() -> None:
    values = features("f4", (2, 3, 4), 7).reshape(-1, 7)
    seen = np.arange(len(values)) % 3 != 0
    values[~seen] = np.inf
    expected = np.abs(values[seen]).max(axis=0)
    np.testing.assert_array_equal(channel_absmax(values, seen), expected)
    values[4, 2] = np.nan
    assert np.isnan(channel_absmax(values, seen)).tolist() == [c == 2 for c in range(7)]
    assert channel_absmax(values, ~(seen | True)).tolist() == [0.0] * 7


def test_rounding_to_halves_gives_the_bits_of_numpy() -> None:
    """Every half, every middle between two, and the float32 on both sides of each; both signs."""
    halves = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float32)
    above = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    points = np.concatenate([halves, (halves + above) / 2, [1e-45, 1e-38, 65504]])
    both = np.concatenate([points, -points]).astype(np.float32)
    values = np.stack([np.nextafter(both, -np.inf), both, np.nextafter(both, np.inf)])
    values[np.abs(values) > 65504] = 0
    stored, absmax = rounded(values, np.ones(3, dtype=bool))
    np.testing.assert_array_equal(stored.view(np.uint16), values.astype("f2").view(np.uint16))
    np.testing.assert_array_equal(absmax, np.abs(values).max(axis=0))


def test_a_token_that_nobody_saw_is_rounded_to_nan_and_not_looked_at() -> None:
    values = np.full((3, 5), 1e9, dtype=np.float32)
    values[1] = np.arange(5)
    stored, absmax = rounded(values, np.array([False, True, False]))
    assert absmax.tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(stored).all(axis=1).tolist() == [True, False, True]
    values[1, 2] = np.nan
    assert np.isnan(rounded(values, np.array([False, True, False]))[1]).tolist() == [
        channel == 2 for channel in range(5)
    ]
