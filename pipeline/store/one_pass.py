"""Sums over a scene's tokens in one pass over memory each, compiled: the same bits as numpy's.

Numpy makes a float64 copy of a scene for each step. Here every value is widened in a register, and
channels are summed token after token in float64, which is numpy's own order along a first axis.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt16

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


def token_moments(
    tokens: Float[np.ndarray, "T C"],
) -> tuple[int, Float64[np.ndarray, " C"], Float64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
    """Return how many tokens hold no NaN, and of these mean, squared deviations and largest |x|.

    Args:
        tokens: float16 or float32, without infinities.
    """
    mean, deviations, absmax = (np.zeros(tokens.shape[1]) for _ in range(3))
    native = np.ascontiguousarray(tokens, dtype=tokens.dtype.newbyteorder("="))
    if native.dtype == np.float16:
        count = _moments_of_halves(native.view(np.uint16), _widened(), mean, deviations, absmax)
    else:
        count = _moments(native, mean, deviations, absmax)
    return int(count), mean, deviations, absmax


def channel_absmax(
    values: Float32[np.ndarray, "T C"], seen: np.ndarray
) -> Float32[np.ndarray, " C"]:
    """Return the largest |x| of each channel over the tokens seen; NaN where one is NaN."""
    found = np.zeros(values.shape[1], dtype=np.float32)
    _absmax(np.ascontiguousarray(values), np.ascontiguousarray(seen), found)
    return found


@cache
def _widened() -> Float32[np.ndarray, "65536"]:
    """Return every float16 as float32, by its bits: a look-up is faster than a conversion."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = numba.njit(**_OPTIONS)(function)
    return made


@_compiled
def _moments_of_halves(
    bits: UInt16[np.ndarray, "T C"],
    widened: Float32[np.ndarray, "65536"],
    mean: Float64[np.ndarray, " C"],
    deviations: Float64[np.ndarray, " C"],
    absmax: Float64[np.ndarray, " C"],
) -> int:
    kept = np.ones(bits.shape[0], np.bool_)
    count = 0
    for t in range(bits.shape[0]):
        bad = False
        for c in range(bits.shape[1]):
            bad |= (bits[t, c] & 0x7FFF) > 0x7C00
        kept[t] = not bad
        if bad:
            continue
        count += 1
        for c in range(bits.shape[1]):
            value = np.float64(widened[bits[t, c]])
            mean[c] += value
            absmax[c] = max(absmax[c], abs(value))
    if count:
        for c in range(bits.shape[1]):
            mean[c] /= count
    for t in range(bits.shape[0]):
        if kept[t]:
            for c in range(bits.shape[1]):
                apart = np.float64(widened[bits[t, c]]) - mean[c]
                deviations[c] += apart * apart
    return count


@_compiled
def _moments(
    values: Float32[np.ndarray, "T C"],
    mean: Float64[np.ndarray, " C"],
    deviations: Float64[np.ndarray, " C"],
    absmax: Float64[np.ndarray, " C"],
) -> int:
    kept = np.ones(values.shape[0], np.bool_)
    count = 0
    for t in range(values.shape[0]):
        bad = False
        for c in range(values.shape[1]):
            bad |= values[t, c] != values[t, c]
        kept[t] = not bad
        if bad:
            continue
        count += 1
        for c in range(values.shape[1]):
            value = np.float64(values[t, c])
            mean[c] += value
            absmax[c] = max(absmax[c], abs(value))
    if count:
        for c in range(values.shape[1]):
            mean[c] /= count
    for t in range(values.shape[0]):
        if kept[t]:
            for c in range(values.shape[1]):
                apart = np.float64(values[t, c]) - mean[c]
                deviations[c] += apart * apart
    return count


@_compiled
def _absmax(
    values: Float32[np.ndarray, "T C"], seen: np.ndarray, found: Float32[np.ndarray, " C"]
) -> None:
    for t in range(values.shape[0]):
        if seen[t]:
            for c in range(values.shape[1]):
                value = abs(values[t, c])
                if value > found[c] or value != value:  # a NaN stays: nothing is above it
                    found[c] = value
