"""Whether an image file is whole: what decoders pass over in silence.

PNG has a CRC on every chunk and a checksum over its pixels, and Pillow compares neither; libjpeg
fills what is missing with grey. A PNG that passes here has the pixels that were written. JPEG has
no checksums: a flipped bit inside its data gives other pixels, and no decoder can know; only that
its end is there can be asked of it.
"""

import struct
import zlib

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.inflating import InflateError, inflater

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By the colour type of a PNG. Source: PNG specification (W3C, 3rd ed.), section 11.2.1."""

_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
          (1, 0, 2, 1))  # fmt: skip
"""First row and column, and steps, of each pass. Source: the same, section 8.2."""

_IN_DATA = (0x00, *range(0xD0, 0xD8), 0xFF)
"""What follows FF inside a JPEG's data: 00 where it is data, D0..D7 at a restart, FF as filling."""

_IS_IN_DATA = np.isin(np.arange(256), _IN_DATA)
_PIECE_BYTES = 2**20
"""Of a JPEG that are looked at at once."""

_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
"""JPEG markers without a length. Source: ITU-T T.81, table B.1."""


def check_png(data: bytes, where: str) -> bytes:
    """Return a PNG's inflated scanlines.

    Raises:
        SceneError: A chunk's CRC is wrong, or not all pixels are there.
    """
    chunks: list[tuple[bytes, bytes]] = []
    position = len(PNG_SIGNATURE)
    while position < len(data) and (not chunks or chunks[-1][0] != b"IEND"):
        header = data[position : position + 8]
        size = struct.unpack(">I", header[:4])[0] if len(header) == 8 else len(data)
        body = data[position + 8 : position + 8 + size]
        crc = data[position + 8 + size : position + 12 + size]
        if len(crc) < 4 or zlib.crc32(body, zlib.crc32(header[4:])) != struct.unpack(">I", crc)[0]:
            raise SceneError(
                f"{where} is a damaged PNG: the checksum at byte {position} of {len(data)} does "
                "not fit; fetch or export it again"
            )
        chunks.append((header[4:], body))
        position += 12 + size
    names = [name for name, _ in chunks]
    if not chunks or names[0] != b"IHDR" or names[-1] != b"IEND" or len(chunks[0][1]) != 13:
        raise SceneError(f"{where} is a truncated PNG; fetch or export it again")
    return _inflated(chunks, where)


def check_jpeg(data: bytes, where: str) -> None:
    """Raise SceneError unless the marker that ends a JPEG follows its data."""
    position = len(JPEG_SIGNATURE)
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xD9:
            return
        if marker == 0xFF:  # filling
            position += 1
        elif marker in _ALONE:
            position += 2
        else:
            position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
            if marker == 0xDA:  # the scan's data goes on until the next marker
                position = _next_marker(data, position)
    if data[position : position + 2] != b"\xff\xd9":
        raise SceneError(
            f"{where} is a truncated or damaged JPEG: its end is missing after {len(data)} bytes; "
            "fetch or export it again"
        )


def _next_marker(data: bytes, position: int) -> int:
    """Return where a JPEG's data ends: at the first FF that none of `_IN_DATA` follows."""
    values = np.frombuffer(data, dtype=np.uint8)
    while position < len(values) - 1:
        piece = values[position : position + _PIECE_BYTES]
        at = position + np.flatnonzero(piece == 0xFF)
        at = at[at < len(values) - 1]
        if len(ends := at[~_IS_IN_DATA[values[at + 1]]]):
            return int(ends[0])
        position += _PIECE_BYTES
    return len(data)


def _inflated(chunks: list[tuple[bytes, bytes]], where: str) -> bytes:
    width, height, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if color not in _CHANNELS or interlaced > 1 or not (width and height):
        raise SceneError(f"{where} is no valid PNG: its header cannot be")
    bits_a_pixel = bits * _CHANNELS[color]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    size = 0
    for row, col, row_step, col_step in passes:
        rows, cols = -(-(height - row) // row_step), -(-(width - col) // col_step)
        if rows > 0 and cols > 0:
            size += rows * (1 + -(-cols * bits_a_pixel // 8))
    inflate = inflater()
    try:
        pixels: bytes = inflate.decompress(
            b"".join(body for name, body in chunks if name == b"IDAT"), size + 1
        )
        if len(pixels) == size and not inflate.eof:
            inflate.decompress(inflate.unconsumed_tail, 1)  # the checksum at the end
    except InflateError as error:
        raise SceneError(f"{where} is a damaged PNG ({error}); export it again") from error
    if len(pixels) != size or not inflate.eof:
        raise SceneError(
            f"{where} is an incomplete PNG: its data holds {len(pixels)} of {size} bytes; "
            "export it again"
        )
    return pixels
