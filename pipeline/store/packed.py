"""Tokens in one byte a number: codes, one scale a token, and the few largest numbers apart.

A token of C channels takes C + 2 + 2K bytes, K = `num_apart(C)`: a code of each channel (int8), the
scale (bfloat16), and the K numbers of largest size (float16) in the order of their channels, whose
codes are -128. Every other number is its code, -127..127, times the scale. So the massive channels
of a diffusion transformer cost the others no precision. A token that nobody saw has the scale NaN.
Little-endian. FORMAT.md shows how to read it without us; the slow twin stands in the tests.
Letters: T tokens, C channels, W bytes of a token.
"""

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Int8, UInt16

from vega3d.pipeline.compiled import compiled
from vega3d.pipeline.store.layout import packed_width
from vega3d.pipeline.store.one_pass import half_of_float


def packed(
    values: Float[np.ndarray, "T C"], seen: Bool[np.ndarray, " T"]
) -> tuple[Int8[np.ndarray, "T W"], Float32[np.ndarray, " C"]]:
    """Return tokens packed, NaN where not seen, and each channel's largest |x| before that.

    Args:
        values: What is larger than 65504 comes out as anything, which the largest |x| tells.
        seen: Which tokens count.
    """
    wide = np.ascontiguousarray(values, dtype=np.float32)
    out = np.empty((len(wide), packed_width(wide.shape[1])), dtype=np.int8)
    largest = np.zeros(wide.shape[1], dtype=np.uint32)
    _pack(wide, wide.view(np.uint32), np.ascontiguousarray(seen), out.view(np.uint8), largest)
    return out, largest.view(np.float32)


def unpacked(packed: Int8[np.ndarray, "... W"], channels: int) -> Float16[np.ndarray, "... C"]:
    """Return the numbers of packed tokens, in float16."""
    out = np.empty((*packed.shape[:-1], channels), dtype="<f2")
    unpack_into(packed, out)
    return out


def unpack_into(packed: Int8[np.ndarray, "... W"], out: Float16[np.ndarray, "... C"]) -> None:
    """Write the numbers of packed tokens to `out`, contiguous."""
    flat = np.ascontiguousarray(packed).view(np.uint8).reshape(-1, packed.shape[-1])
    _unpack(flat, out.view(np.uint16).reshape(len(flat), -1))


@compiled
def _largest_places(row: Float32[np.ndarray, " C"], places: np.ndarray) -> None:
    """Write the places of the largest numbers, rising; the first where several are as large."""
    count = len(places)
    sizes = np.full(count, np.float32(-1))  # falling
    found = np.zeros(count, np.int64)
    for c in range(len(row)):
        size = abs(row[c])
        if size > sizes[count - 1]:
            k = count - 1
            while k > 0 and sizes[k - 1] < size:
                sizes[k], found[k] = sizes[k - 1], found[k - 1]
                k -= 1
            sizes[k], found[k] = size, c
    places[:] = np.sort(found)


@compiled
def _pack(
    values: Float32[np.ndarray, "T C"],
    bits: np.ndarray,
    seen: Bool[np.ndarray, " T"],
    out: np.ndarray,
    largest: np.ndarray,
) -> None:
    channels = values.shape[1]
    apart = (out.shape[1] - channels - 2) // 2
    places = np.zeros(apart, np.int64)
    for t in range(len(values)):
        row, token = values[t], out[t]
        if not seen[t]:
            token[:] = 0
            token[:apart] = 0x80
            token[channels] = token[channels + 1] = 0xFF
            for k in range(apart):
                token[channels + 2 + 2 * k], token[channels + 3 + 2 * k] = 0x00, 0x7E
            continue
        for c in range(channels):
            largest[c] = max(largest[c], np.uint32(bits[t, c] & np.uint32(0x7FFFFFFF)))
        if apart:
            _largest_places(row, places)
        top, k = np.float32(0), 0
        for c in range(channels):
            if k < apart and places[k] == c:
                k += 1
            else:
                top = max(top, abs(row[c]))
        # To a bfloat16, upwards, so that no code is beyond 127.
        scale_bits = np.uint32(
            (np.float32(top / np.float32(127)).view(np.uint32) + np.uint32(0xFFFF)) & 0xFFFF0000
        )
        scale = scale_bits.view(np.float32)
        inverse = np.float32(1) / scale if scale > 0 else np.float32(0)
        most = np.int32(127)  # or less, where its number would be beyond float16
        if scale * np.float32(127) > np.float32(65504):
            most = np.int32(np.float32(65504) / scale)
        for c in range(channels):
            code = np.int32(np.rint(row[c] * inverse))
            token[c] = np.uint8(min(max(code, -most), most) & 0xFF)
        token[channels] = np.uint8((scale_bits >> np.uint32(16)) & np.uint32(0xFF))
        token[channels + 1] = np.uint8(scale_bits >> np.uint32(24))
        for k in range(apart):
            token[places[k]] = 0x80
            half = half_of_float(bits[t, places[k]])
            token[channels + 2 + 2 * k] = np.uint8(half & np.uint16(0xFF))
            token[channels + 3 + 2 * k] = np.uint8(half >> np.uint16(8))


@compiled
def _unpack(packed: np.ndarray, out: UInt16[np.ndarray, "T C"]) -> None:
    channels = out.shape[1]
    for t in range(len(packed)):
        token, row = packed[t], out[t]
        high = np.uint32(token[channels + 1]) << np.uint32(24)
        scale_bits = np.uint32(high | (np.uint32(token[channels]) << np.uint32(16)))
        if np.uint32(scale_bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
            row[:] = 0x7E00
            continue
        scale = scale_bits.view(np.float32)
        for c in range(channels):
            value = np.float32(np.int8(token[c])) * scale
            row[c] = half_of_float(np.float32(value).view(np.uint32))
        place = channels + 2
        if place == len(token):
            continue
        for c in range(channels):
            if token[c] == 0x80:
                row[c] = np.uint16(token[place]) | (np.uint16(token[place + 1]) << np.uint16(8))
                place += 2
                if place >= len(token):
                    break
