"""Colour and depth images: decoding with its checks, and depth as a PNG.

Letters: H W a colour image, h w a depth image. Pixels are taken as the file stores them: an EXIF
orientation is NOT applied, since intrinsics and depth describe the stored grid.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import check_fits
from vega3d.pipeline.scenes.scene import View

MAX_PIXELS = 89_478_485
"""Largest image that is decoded: Pillow's own limit, where it only warns. A guard against
decompression bombs, not a target."""

_COLOR_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# What Pillow raises on damaged input; the bomb warning comes as an error where filters say so.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedView:
    """A view as files hold it; `decoded_view` turns it into one that decodes and checks itself."""

    scene_id: str
    view_id: str
    load_color: Callable[[], bytes]
    load_depth: Callable[[], bytes] | None = None
    K_color: Float[np.ndarray, "3 3"] | None = None
    K_depth: Float[np.ndarray, "3 3"] | None = None
    world_from_camera: Float[np.ndarray, "4 4"] | None = None

    depth_size: tuple[int, int] | None = None
    """Rows and columns that every depth image of the scene must have."""

    invalid_mm: int = 0
    """A second depth value that means no reading, beside 0."""

    @property
    def where(self) -> str:
        """Name the view for messages."""
        return f"{self.scene_id}/view {self.view_id}"


def decoded_view(encoded: EncodedView) -> View:
    """Return a lazy view: pixels are decoded and checked when asked for."""

    def read_rgb() -> UInt8[np.ndarray, "H W 3"]:
        rgb = decode_rgb(_load(encoded.load_color, encoded.where, "colour"), encoded.where)
        if encoded.K_color is not None:
            check_fits(encoded.K_color, rgb.shape[0], rgb.shape[1], f"{encoded.where}: colour")
        return rgb

    return View(
        view_id=encoded.view_id,
        read_rgb=read_rgb,
        read_depth_m=None if encoded.load_depth is None else lambda: _read_depth(encoded),
        K_color=encoded.K_color,
        K_depth=encoded.K_depth,
        world_from_camera=encoded.world_from_camera,
        read_color_bytes=encoded.load_color,
    )


def decode_rgb(data: bytes, where: str) -> UInt8[np.ndarray, "H W 3"]:
    """Decode a JPEG or PNG; grey, palette and CMYK become RGB, and alpha is dropped.

    Raises:
        SceneError: Truncated or damaged, another format, more than 8 bits a channel, or over
            MAX_PIXELS.
    """
    image = _open(data, where, "colour")
    if image.mode not in _COLOR_MODES:
        raise SceneError(
            f"{where}: colour image has Pillow mode {image.mode!r}; it must have 8 bits a channel"
        )
    try:
        return np.array(image.convert("RGB"), dtype=np.uint8)
    except _DAMAGED as error:
        raise SceneError(f"{where}: colour image is damaged ({error}); export it again") from error


def decode_depth_m(data: bytes, where: str, *, invalid_mm: int = 0) -> Float32[np.ndarray, "h w"]:
    """Decode a 16-bit PNG of millimetres to metres; 0 and `invalid_mm` mean no reading.

    Raises:
        SceneError: Truncated or damaged, not a 16-bit grey PNG, or over MAX_PIXELS.
    """
    image = _open(data, where, "depth")
    if image.format != "PNG" or not image.mode.startswith("I;16"):
        raise SceneError(
            f"{where}: depth is a {image.format} of Pillow mode {image.mode!r}; it must be a "
            "16-bit greyscale PNG of millimetres, so export it again without conversion"
        )
    try:
        depth_mm = np.array(image).astype(np.uint16)
    except _DAMAGED as error:
        raise SceneError(f"{where}: depth image is damaged ({error}); export it again") from error
    depth_mm[depth_mm == invalid_mm] = 0
    return depth_mm.astype(np.float32) / np.float32(1000)


def image_size(data: bytes, where: str) -> tuple[int, int]:
    """Return rows and columns from an image's header; its pixels may be missing."""
    image = _open(data, where, "depth")
    return image.height, image.width


def encode_png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Return a colour image as a PNG."""
    return _png(Image.fromarray(pixels))


def encode_depth_png(depth_m: Float32[np.ndarray, "h w"], where: str) -> bytes:
    """Return depth as a 16-bit PNG, rounded to the millimetre.

    Raises:
        SceneError: A reading beyond 65.535 m, which 16 bits of millimetres cannot hold.
    """
    depth_mm = np.rint(depth_m.astype(np.float64) * 1000)
    if not (np.isfinite(depth_mm).all() and depth_mm.min(initial=0) >= 0):
        raise SceneError(f"{where}: depth must be finite and not negative; 0 means no reading")
    if depth_mm.max(initial=0) > np.iinfo(np.uint16).max:
        raise SceneError(
            f"{where}: depth reaches {depth_m.max():.3f} m, and a 16-bit millimetre PNG ends at "
            "65.535 m; set far readings to 0"
        )
    return _png(Image.fromarray(depth_mm.astype(np.uint16)))


def _read_depth(encoded: EncodedView) -> Float32[np.ndarray, "h w"]:
    assert encoded.load_depth is not None
    data = _load(encoded.load_depth, encoded.where, "depth")
    depth_m = decode_depth_m(data, encoded.where, invalid_mm=encoded.invalid_mm)
    height, width = depth_m.shape
    if encoded.depth_size is not None and (height, width) != encoded.depth_size:
        raise SceneError(
            f"{encoded.where}: depth is {height}x{width}, the scene's first is "
            f"{encoded.depth_size[0]}x{encoded.depth_size[1]}; export all depth images of a scene "
            "at one size"
        )
    if encoded.K_depth is not None:
        check_fits(encoded.K_depth, height, width, f"{encoded.where}: depth")
    return depth_m


def _load(load: Callable[[], bytes], where: str, what: str) -> bytes:
    try:
        return load()
    except OSError as error:
        raise SceneError(f"{where}: {what} image cannot be read ({error})") from error


def _open(data: bytes, where: str, what: str) -> Image.Image:
    """Parse the header, and refuse what is too large before any pixel is decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        size = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SceneError(f"{where}: {what} image is over the limit ({error})") from error
    except _DAMAGED as error:
        raise SceneError(
            f"{where}: {what} image of {len(data)} bytes is no readable JPEG or PNG ({error})"
        ) from error
    if size[0] * size[1] > MAX_PIXELS:
        raise SceneError(
            f"{where}: {what} image of {size[1]}x{size[0]} pixels is over the limit of "
            f"{MAX_PIXELS} pixels; scale it down"
        )
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
