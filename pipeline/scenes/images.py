"""Colour images: decoding with its checks, and turning them upright.

Letters: H W a colour image. Formats are JPEG, PNG, and HEIC by the optional package pillow-heif
(extra `heic`). Pixels are the stored grid, which intrinsics and depth describe; an EXIF orientation
is read apart (`read_turns`), and what belongs to a view is turned together (`upright`).
"""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.integrity import (
    JPEG_SIGNATURE,
    check_jpeg,
    check_png,
)
from vega3d.pipeline.shapes import UInt8, UInt16

MAX_PIXELS = 89_478_485
"""Largest image that is decoded: Pillow's own limit, where it only warns. A guard against
decompression bombs, not a target."""

DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises on damaged input; the bomb warning comes as an error where filters say so."""

_COLOR_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_ORIENTATION = 0x0112
_TURNS = {1: 0, 6: 1, 3: 2, 8: 3}
"""Quarter turns clockwise that show an image upright, by EXIF orientation (CIPA DC-008, 4.6.5)."""


def decode_rgb(data: bytes, where: str, divisor: int = 1) -> UInt8[np.ndarray, "H W 3"]:
    """Decode a JPEG, PNG or HEIC; grey, palette and CMYK become RGB, and alpha is dropped.

    16 bits a channel become 8 over the whole range; values that all lie below 256 are taken as the
    8 bits that they are.

    Args:
        data: The file.
        where: Names the view in messages.
        divisor: 2, 4 or 8: H and W are so many times less. A JPEG leaves out the frequencies that
            this cannot show before it makes pixels, of others means are taken.

    Raises:
        SceneError: Truncated or damaged, another format, over MAX_PIXELS, or 16 bits of which only
            the lower twelve are used, so that nobody knows what white is; or the divisor leaves a
            rest.
    """
    if data.startswith(JPEG_SIGNATURE):
        return _decode_jpeg(data, where, divisor)
    pixels = _decode_heic(data, where) if is_heic(data) else _decode_png(data, where)
    return _means(pixels, divisor, where)


def is_heic(data: bytes) -> bool:
    """Say whether a file is HEIC, by how it starts."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


def _decode_jpeg(data: bytes, where: str, divisor: int) -> UInt8[np.ndarray, "H W 3"]:
    image = open_image(data, where, "colour", ("JPEG", "PNG"))
    check_jpeg(data, f"{where}: colour image")
    _check_divides((image.height, image.width), divisor, where)
    if (pixels := _decode_fast(data, image, divisor)) is not None:
        return pixels
    if divisor > 1:  # it takes the largest part of its sides that is no less than what is asked
        image.draft(None, (image.width // divisor, image.height // divisor))
    return _decode_by_pillow(image, where)


def _decode_png(data: bytes, where: str) -> UInt8[np.ndarray, "H W 3"]:
    image = open_image(data, where, "colour", ("JPEG", "PNG"))
    check_png(data, f"{where}: colour image")
    if data[24] == 16:
        return _eight_bits(_decode_sixteen(data, image, where), data, where)
    return _decode_by_pillow(image, where)


def _means(pixels: UInt8[np.ndarray, "H W 3"], side: int, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the mean of each square of so many pixels a side."""
    if side == 1:
        return pixels
    _check_divides(pixels.shape[:2], side, where)
    return np.asarray(Image.fromarray(pixels).reduce(side))


def _check_divides(size: tuple[int, ...], divisor: int, where: str) -> None:
    if size[0] % divisor or size[1] % divisor:
        raise SceneError(
            f"{where}: colour image is {size[0]}x{size[1]}, and the scene's first can be divided "
            f"by {divisor}: they differ in size; resize them, or make a scene of each size"
        )


def _decode_by_pillow(image: Image.Image, where: str) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode not in _COLOR_MODES:
        raise SceneError(f"{where}: colour image has Pillow mode {image.mode!r}; make it RGB")
    try:
        return np.array(image.convert("RGB"), dtype=np.uint8)
    except DAMAGED as error:
        raise SceneError(f"{where}: colour image is damaged ({error}); export it again") from error


def read_turns(data: bytes, where: str) -> int:
    """Return how many quarter turns clockwise show a colour image upright, as its EXIF says.

    Raises:
        SceneError: No readable image, or one that is to be mirrored.
    """
    if not data.startswith(JPEG_SIGNATURE) and b"eXIf" not in data[:4096]:
        return 0
    image = open_image(data, where, "colour", ("JPEG", "PNG"))
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except DAMAGED:
        return 0  # EXIF is beside the image: viewers show it as it is stored
    if orientation in (2, 4, 5, 7):
        raise SceneError(
            f"{where}: EXIF orientation {orientation} is a mirrored image, which no camera with "
            "these axes takes; save it without"
        )
    return _TURNS.get(orientation, 0)


def image_size(data: bytes, where: str, what: str = "depth") -> tuple[int, int]:
    """Return rows and columns from an image's header; its pixels may be missing."""
    image = open_image(data, where, what, ("JPEG", "PNG", "TIFF", "PPM"))
    return image.height, image.width


def encode_png(pixels: UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "h w"]) -> bytes:
    """Return an image as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def open_image(data: bytes, where: str, what: str, formats: tuple[str, ...]) -> Image.Image:
    """Parse the header, and refuse what is too large before any pixel is decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        size = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SceneError(f"{where}: {what} image is over the limit ({error})") from error
    except DAMAGED as error:
        raise SceneError(
            f"{where}: {what} image of {len(data)} bytes is no readable {' or '.join(formats[:2])} "
            f"({str(error).partition('<')[0].strip()})"
        ) from error
    if size[0] * size[1] > MAX_PIXELS:
        raise SceneError(
            f"{where}: {what} image of {size[1]}x{size[0]} pixels is over the limit of "
            f"{MAX_PIXELS} pixels; scale it down"
        )
    return image


def _decode_fast(
    data: bytes, image: Image.Image, divisor: int
) -> UInt8[np.ndarray, "H W 3"] | None:
    """Return a JPEG's pixels by libjpeg-turbo itself, which Pillow has too; None leaves it to that.

    Pillow copies them three times. What this decoder only warns of, Pillow judges, in its words.
    """
    decode = _decoder()
    if decode is None or image.mode != "RGB":
        return None
    height, width = image.height // divisor, image.width // divisor
    try:
        pixels: np.ndarray = decode(data, "RGB", min_height=height, min_width=width)
    except (ValueError, MemoryError):
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


@cache
def _decoder() -> Callable[..., np.ndarray] | None:
    try:
        from simplejpeg import decode_jpeg
    except ImportError:  # no wheel for this machine
        return None
    found: Callable[..., np.ndarray] = decode_jpeg
    return found


def _decode_heic(data: bytes, where: str) -> UInt8[np.ndarray, "H W 3"]:
    try:
        import pillow_heif
    except ImportError as error:
        raise SceneError(
            f"{where}: colour image is HEIC; pip install 'vega3d[heic]', or export JPEG"
        ) from error
    try:
        heif = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
        if heif.size[0] * heif.size[1] > MAX_PIXELS:
            raise ValueError(f"{heif.size[1]}x{heif.size[0]} is over {MAX_PIXELS} pixels")
        return np.array(heif.to_pillow().convert("RGB"), dtype=np.uint8)
    except (*DAMAGED, RuntimeError) as error:
        raise SceneError(f"{where}: colour image is no readable HEIC ({error})") from error


def _decode_sixteen(data: bytes, image: Image.Image, where: str) -> UInt16[np.ndarray, "H W c"]:
    """Return a 16-bit PNG's own numbers; Pillow keeps them of grey images alone."""
    try:
        if image.mode.startswith("I;16"):
            return np.array(image).astype(np.uint16)[..., None]
        import av

        with av.open(io.BytesIO(data), format="png_pipe") as container:
            pixels = next(container.decode(video=0)).to_ndarray()
        return np.asarray(pixels).reshape(image.height, image.width, -1).astype(np.uint16)
    except (*DAMAGED, StopIteration) as error:
        raise SceneError(f"{where}: colour image is damaged ({error}); export it again") from error


def _eight_bits(
    pixels: UInt16[np.ndarray, "H W c"], data: bytes, where: str
) -> UInt8[np.ndarray, "H W 3"]:
    channels = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]  # alpha comes last
    largest = int(channels.max(initial=0))
    if 256 <= largest < 4096 and b"sBIT" not in data[:4096]:
        raise SceneError(
            f"{where}: colour image has 16 bits a channel, but its numbers end at {largest}: scale "
            "them to 0..65535, or write how many bits count (sBIT)"
        )
    scaled = channels if largest < 256 else np.rint(channels * (255 / 65535))
    return np.ascontiguousarray(np.broadcast_to(scaled.astype(np.uint8), (*pixels.shape[:2], 3)))
