"""Rounding and sums over a scene's tokens in one pass over memory each, compiled.

The bits are numpy's, which makes a float64 copy of a scene for each step and rounds to float16
without the processor's help. Here every value is widened or rounded in a register, by its bits, and
channels are summed token after token in float64, which is numpy's own order along a first axis.
Letters: T tokens, C channels.
"""

import platform
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt16, UInt32
from llvmlite import ir  # type: ignore[import-untyped]
from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from vega3d.pipeline.compiled import compiled, inlined

_TWO_TO_112 = 2.0**112
"""What float16's exponents lie below float32's, as a factor."""


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
        largest = np.zeros(tokens.shape[1], dtype=np.uint16)
        count = _moments_of_halves(native.view(np.uint16), mean, deviations, largest)
        absmax[:] = largest.view(np.float16)
    else:
        count = _moments(native, mean, deviations, absmax)
    return int(count), mean, deviations, absmax


def rounded(
    values: Float32[np.ndarray, "T C"], seen: Bool[np.ndarray, " T"]
) -> tuple[Float[np.ndarray, "T C"], Float32[np.ndarray, " C"]]:
    """Return tokens as float16, NaN where not seen, and each channel's largest |x| before that.

    Args:
        values: To the nearest, ties to even; what is larger than 65504 comes out as anything, which
            the largest |x| tells.
        seen: Which tokens count.
    """
    bits = np.ascontiguousarray(values).view(np.uint32)
    halves = np.empty(values.shape, dtype=np.uint16)
    largest = np.zeros(values.shape[1], dtype=np.uint32)
    _round(bits, np.ascontiguousarray(seen), halves, largest)
    return halves.view(np.float16), largest.view(np.float32)


def channel_absmax(
    values: Float[np.ndarray, "T C"], seen: Bool[np.ndarray, " T"]
) -> Float32[np.ndarray, " C"]:
    """Return the largest |x| of each channel over the tokens seen; NaN where one is NaN.

    Args:
        values: float16 or float32.
        seen: Which tokens count.
    """
    kind = np.uint16 if values.dtype.itemsize == 2 else np.uint32
    largest = np.zeros(values.shape[1], dtype=kind)
    native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    _absmax(native.view(kind), np.ascontiguousarray(seen), largest, kind(np.iinfo(kind).max // 2))
    return largest.view(native.dtype).astype(np.float32)


@inlined
def half_of_float(bits: Any) -> Any:  # noqa: ANN401 - compiled
    """Return the float16 nearest to a float32 below 65520, both by their bits.

    Numba widens every sum of integers, so that each is cut to 32 bits again.
    """
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    odd = np.uint32(np.uint32(size >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(np.uint32(size + np.uint32(0xC8000FFF) + odd) >> np.uint32(13))
    # Below 2^-14 the sum with 0.5 is rounded where float16's last bit lies.
    small = np.uint32(
        np.float32(size.view(np.float32) + np.float32(0.5)).view(np.uint32) - 0x3F000000
    )
    half = small if size < np.uint32(0x38800000) else normal
    return np.uint16(half | np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000)))


@inlined
def _by_bits(half):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - compiled
    """Return the number that a float16's bits mean, exactly; not for what is not finite."""
    bits = np.uint32(half)
    moved = np.uint32(np.uint32(bits & np.uint32(0x7FFF)) << np.uint32(13))
    sign = np.uint32(np.uint32(bits & np.uint32(0x8000)) << np.uint32(16))
    return np.uint32(moved | sign).view(np.float32) * np.float32(_TWO_TO_112)


@intrinsic
def _by_processor(_, half):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - compiled
    """Return the number that a float16's bits mean: one instruction for eight of them."""

    def generated(_, builder, __, arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generated


def _processor_widens() -> bool:
    """Say whether it has the instruction; without it LLVM calls a function that is not there."""
    is_intel = platform.machine().lower() in ("x86_64", "amd64")
    return not is_intel or bool(get_host_cpu_features().get("f16c"))


float_of_half = _by_processor if _processor_widens() else _by_bits


@compiled
def _round(
    bits: UInt32[np.ndarray, "T C"],
    seen: Bool[np.ndarray, " T"],
    halves: UInt16[np.ndarray, "T C"],
    largest: UInt32[np.ndarray, " C"],
) -> None:
    for t in range(bits.shape[0]):
        if seen[t]:
            for c in range(bits.shape[1]):
                largest[c] = max(largest[c], np.uint32(bits[t, c] & np.uint32(0x7FFFFFFF)))
                halves[t, c] = half_of_float(bits[t, c])
        else:
            halves[t, :] = 0x7E00


@compiled
def _absmax(
    bits: np.ndarray,
    seen: Bool[np.ndarray, " T"],
    largest: np.ndarray,
    unsigned: np.unsignedinteger,
) -> None:
    """Floats without a sign are ordered as their bits are, and NaN is above all."""
    for t in range(bits.shape[0]):
        if seen[t]:
            for c in range(bits.shape[1]):
                largest[c] = max(largest[c], bits[t, c] & unsigned)


@compiled
def _moments_of_halves(
    bits: UInt16[np.ndarray, "T C"],
    mean: Float64[np.ndarray, " C"],
    deviations: Float64[np.ndarray, " C"],
    largest: UInt16[np.ndarray, " C"],
) -> int:
    kept = np.ones(bits.shape[0], np.bool_)
    count = 0
    for t in range(bits.shape[0]):
        top = np.uint16(0)
        for c in range(bits.shape[1]):
            top = max(top, np.uint16(bits[t, c] & np.uint16(0x7FFF)))
        kept[t] = top <= 0x7C00
        if not kept[t]:
            continue
        count += 1
        for c in range(bits.shape[1]):
            mean[c] += np.float64(float_of_half(bits[t, c]))
            largest[c] = max(largest[c], np.uint16(bits[t, c] & np.uint16(0x7FFF)))
    if count:
        for c in range(bits.shape[1]):
            mean[c] /= count
    for t in range(bits.shape[0]):
        if kept[t]:
            for c in range(bits.shape[1]):
                apart = np.float64(float_of_half(bits[t, c])) - mean[c]
                deviations[c] += apart * apart
    return count


@compiled
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
