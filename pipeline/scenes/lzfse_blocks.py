"""What a buffer in LZFSE unpacks to, read from its blocks' headers before anything is unpacked.

The library grows its output until all is unpacked, so a small buffer can ask for any memory.

Source: lzfse.h and lzfse_internal.h of Apple's reference implementation (block headers, the longest
match).
"""

import struct

_RAW, _LZVN, _LZFSE, _END = b"bvx-", b"bvxn", b"bvx2", b"bvx$"
_LONGEST_MATCH = 2359
"""Bytes of one match at most: the largest base, and its extra bits."""


def sizes_bytes(data: bytes) -> tuple[int, int]:
    """Return how many bytes the blocks say that they hold, and how many they could at most.

    Raises:
        ValueError: The blocks are cut short, or of a kind that no encoder writes.
    """
    at = stated = most = 0
    while (kind := data[at : at + 4]) != _END:
        try:
            size, block_bytes, could = _block(kind, data, at)
        except struct.error as error:
            raise ValueError(f"LZFSE data are cut short at byte {at}") from error
        stated, most, at = stated + size, most + could, at + block_bytes
    return stated, most


def _block(kind: bytes, data: bytes, at: int) -> tuple[int, int, int]:
    """Return a block's stated size, its length in the buffer, and what it could hold at most."""
    if kind == _RAW:
        (size,) = struct.unpack_from("<I", data, at + 4)
        return size, 8 + size, size
    if kind == _LZVN:
        size, payload = struct.unpack_from("<II", data, at + 4)
        return size, 12 + payload, size  # its decoder stops there
    if kind != _LZFSE:
        raise ValueError(f"byte {at} of LZFSE data begins no block ({kind!r})")
    size, first, second, third = struct.unpack_from("<IQQQ", data, at + 4)
    literals, literal_bytes, matches = (first >> shift & 0xFFFFF for shift in (0, 20, 40))
    length = (third & 0xFFFFFFFF) + literal_bytes + (second >> 40 & 0xFFFFF)
    if length < 32:
        raise ValueError(f"an LZFSE block at byte {at} ends before its header does")
    return size, length, literals + matches * _LONGEST_MATCH
