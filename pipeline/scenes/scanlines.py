"""A PNG's inflated scanlines to pixels, compiled: checking a file has inflated them already.

Letters: H rows, n bytes a row.
"""

import numpy as np
from jaxtyping import UInt8

from vega3d.pipeline.compiled import compiled


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
            row[:] = line
        elif kind == 1:
            row[:bytes_a_pixel] = line[:bytes_a_pixel]
            for x in range(bytes_a_pixel, row.size):
                row[x] = line[x] + row[x - bytes_a_pixel]
        elif kind == 2:
            for x in range(row.size):
                row[x] = line[x] + above[x]
        elif kind == 3:
            for x in range(bytes_a_pixel):
                row[x] = line[x] + (above[x] >> 1)
            for x in range(bytes_a_pixel, row.size):
                row[x] = line[x] + ((np.int32(row[x - bytes_a_pixel]) + np.int32(above[x])) >> 1)
        elif kind == 4:
            for x in range(bytes_a_pixel):
                row[x] = line[x] + above[x]
            _add_paeth(line, above, bytes_a_pixel, row)
        else:
            return False
        above = row
    return True


@compiled
def _add_paeth(
    line: UInt8[np.ndarray, " n"],
    above: UInt8[np.ndarray, " n"],
    step: int,
    row: UInt8[np.ndarray, " n"],
) -> None:
    """Add the neighbour to the left, above or above it, that is nearest to a + b - c."""
    for first in range(step):
        a, c = np.int32(row[first]), np.int32(above[first])
        for x in range(first + step, row.size, step):
            b = np.int32(above[x])
            to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
            near = a if to_a <= to_b and to_a <= to_c else (b if to_b <= to_c else c)
            a = (np.int32(line[x]) + near) & 255
            row[x] = a
            c = b
