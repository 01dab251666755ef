"""A PNG's inflated scanlines to pixels, compiled: checking a file has inflated them already.

Letters: H rows, n bytes a row, h w a depth image.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from vega3d.pipeline.compiled import compiled, inlined


def unfiltered(
    scanlines: bytes, height: int, bytes_a_pixel: int
) -> UInt8[np.ndarray, "H n"] | None:
    """Return the rows' bytes without their filters; None where a filter is none that there is.

    Args:
        scanlines: Inflated, not interlaced, each with the byte of its filter first.
        height: Number of rows.
        bytes_a_pixel: Distance of a byte from that of the pixel before it.

    Source: PNG specification (W3C, 3rd ed.), section 9.
    """
    lines = np.frombuffer(scanlines, dtype=np.uint8).reshape(height, -1)
    out = np.empty((height, lines.shape[1] - 1), dtype=np.uint8)
    return out if _unfilter(lines, bytes_a_pixel, out) else None


@compiled
def _unfilter(
    lines: UInt8[np.ndarray, "H m"], bytes_a_pixel: int, out: UInt8[np.ndarray, "H n"]
) -> bool:
    above = np.zeros(out.shape[1], np.uint8)
    for y in range(out.shape[0]):
        kind, line, row = lines[y, 0], lines[y, 1:], out[y]
        if kind == 0:
            for x in range(row.size):
                row[x] = line[x]
        elif kind == 2:
            for x in range(row.size):
                row[x] = line[x] + above[x]
        elif kind == 1:
            _add(line, above, _left, bytes_a_pixel, row)
        elif kind == 3:
            _add(line, above, _mean, bytes_a_pixel, row)
        elif kind == 4:
            _add(line, above, _nearest, bytes_a_pixel, row)
        else:
            return False
        above = row
    return True


@inlined
def _add(
    line: UInt8[np.ndarray, " n"],
    above: UInt8[np.ndarray, " n"],
    told: Any,  # noqa: ANN401 - compiled
    step: int,
    row: UInt8[np.ndarray, " n"],
) -> None:
    """Add to each byte what its neighbours tell: to the left, above, and above that to the left.

    Each waits for the one to its left, so that two bytes of a pixel go on side by side.
    """
    for first in range(0, step, 2):
        second = min(first + 1, step - 1)  # the same twice where they are odd
        a = c = d = f = np.int32(0)
        for x in range(0, row.size, step):
            b, e = np.int32(above[x + first]), np.int32(above[x + second])
            a = (np.int32(line[x + first]) + told(a, b, c)) & 255
            d = (np.int32(line[x + second]) + told(d, e, f)) & 255
            row[x + first], row[x + second] = a, d
            c, f = b, e


@inlined
def _left(a: np.int32, b: np.int32, c: np.int32) -> np.int32:
    return a


@inlined
def _mean(a: np.int32, b: np.int32, c: np.int32) -> np.int32:
    return (a + b) >> 1


@inlined
def _nearest(a: np.int32, b: np.int32, c: np.int32) -> np.int32:
    """Return the one that is nearest to a + b - c."""
    to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    return a if to_a <= to_b and to_a <= to_c else (b if to_b <= to_c else c)


@compiled
def metres_of_millimetres(
    readings: UInt16[np.ndarray, "h w"], none: int, out: Float32[np.ndarray, "h w"]
) -> None:
    """Write readings as metres, each the float32 next to it, and 0 for the one that means none."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            reading = np.float32(readings[y, x])
            out[y, x] = np.float32(0) if readings[y, x] == none else reading / np.float32(1000)
