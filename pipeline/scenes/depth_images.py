"""Depth images: files of several formats to metres, and back to a 16-bit PNG.

Letters: h w a depth image. Formats: 16-bit PNG, TIFF and PGM, float TIFF, .npy, and OpenEXR by the
optional package OpenEXR (extra `exr`). Integers are millimetres and floats metres where the layout
says nothing else. What is not finite or not positive is no reading, and neither is 65535 of
integers: sensors, and tools that saturate, write it; as millimetres it would be a point at 65 m.
"""

import io
import math
import tokenize
from typing import Any

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.images import DAMAGED, MAX_PIXELS, encode_png, open_image
from vega3d.pipeline.scenes.integrity import PNG_SIGNATURE, check_png
from vega3d.pipeline.shapes import Float32, Shaped

SUFFIXES = (".png", ".npy", ".tiff", ".tif", ".exr", ".pgm")
"""Endings of the depth files that are read; the first of them is taken where there are several."""

_SATURATED = 65535
_NPY, _EXR = b"\x93NUMPY", b"v/1\x01"
_GREY_16 = bytes((16, 0, 0, 0, 0))
"""Of a PNG's header: 16 bits of grey, not interlaced."""

_PIL_MODES = ("I;16", "I;16L", "I;16B", "I", "F")


def decode_depth_m(
    data: bytes | Shaped[np.ndarray, "..."],
    where: str,
    *,
    unit_m: float | None = None,
) -> Float32[np.ndarray, "h w"]:
    """Decode a depth file to metres; 0 means no reading.

    Args:
        data: The file, or readings that the caller took from a format of its own.
        where: Names the view in messages.
        unit_m: Metres of one step; None is 0.001 for integers and 1 for floats.

    Raises:
        SceneError: Truncated or damaged, no depth format, or over MAX_PIXELS.
    """
    try:
        readings = _readings(data, where) if isinstance(data, bytes) else data
    except SceneError:
        raise
    except DAMAGED as error:
        raise SceneError(f"{where}: depth image is damaged ({error}); export it again") from error
    if readings.ndim == 3 and 1 in (readings.shape[0], readings.shape[2]):
        readings = readings[0] if readings.shape[0] == 1 else readings[..., 0]
    if readings.ndim != 2 or readings.dtype.kind not in "uif":
        raise SceneError(
            f"{where}: depth is {readings.dtype} of shape {list(readings.shape)}; it must be one "
            "number a pixel"
        )
    is_float = readings.dtype.kind == "f"
    unit_m = (1.0 if is_float else 1e-3) if unit_m is None else unit_m
    if unit_m == 1e-3 and readings.dtype == np.uint16:
        from vega3d.pipeline.scenes.scanlines import metres_of_millimetres  # numba's

        depth_m = np.empty(readings.shape, dtype=np.float32)
        metres_of_millimetres(np.ascontiguousarray(readings), _SATURATED, depth_m)
        return depth_m
    has_reading = readings > 0
    if is_float:
        has_reading &= np.isfinite(readings)
    else:
        has_reading &= readings != _SATURATED
    if unit_m == 1e-3:  # correctly rounded: 1234 mm is the float next to 1.234
        depth_m = readings.astype(np.float32) / np.float32(1000)
    else:
        depth_m = (readings.astype(np.float64) * unit_m).astype(np.float32)
    depth_m[~has_reading] = 0
    return depth_m


def encode_depth_png(depth_m: Float32[np.ndarray, "h w"], where: str) -> bytes:
    """Return depth as a 16-bit PNG, rounded to the millimetre.

    Raises:
        SceneError: A reading beyond 65.534 m, which 16 bits of millimetres cannot hold.
    """
    depth_mm = np.rint(depth_m.astype(np.float64) * 1000)
    if not (np.isfinite(depth_mm).all() and depth_mm.min(initial=0) >= 0):
        raise SceneError(f"{where}: depth must be finite and not negative; 0 means no reading")
    if depth_mm.max(initial=0) >= _SATURATED:
        raise SceneError(
            f"{where}: depth reaches {depth_m.max():.3f} m, and a 16-bit millimetre PNG ends at "
            "65.534 m; set far readings to 0"
        )
    return encode_png(depth_mm.astype(np.uint16))


def depth_size(data: bytes, where: str) -> tuple[int, int]:
    """Return rows and columns of a depth file, as cheaply as its format allows."""
    if data.startswith((_NPY, _EXR)):
        return decode_depth_m(data, where).shape
    image = open_image(data, where, "depth", ("PNG", "JPEG", "TIFF", "PPM"))
    return image.height, image.width


def _readings(data: bytes, where: str) -> Shaped[np.ndarray, "..."]:
    if data.startswith(_NPY):
        return _read_npy(data)
    if data.startswith(_EXR):
        return _read_exr(data, where)
    image = open_image(data, where, "depth", ("PNG", "JPEG", "TIFF", "PPM"))
    if image.format == "JPEG" or image.mode not in _PIL_MODES:
        raise SceneError(
            f"{where}: depth is a {image.format} of Pillow mode {image.mode!r}; it must be a "
            "16-bit greyscale PNG of millimetres, so export it again without conversion"
        )
    if image.format == "PPM" and b"65535" not in data[:64]:
        raise SceneError(f"{where}: depth is a PGM that ends below 65535; save it with 16 bits")
    if data.startswith(PNG_SIGNATURE):
        scanlines = check_png(data, f"{where}: depth image")
        if data[24:29] == _GREY_16:
            from vega3d.pipeline.scenes.scanlines import unfiltered  # numba's: not to plan with

            rows = unfiltered(scanlines, image.height, 2)
            if rows is not None:
                return rows.view(">u2").astype(np.uint16)
    readings = np.array(image)
    return readings.astype(readings.dtype.newbyteorder("="))


def _read_npy(data: bytes) -> Shaped[np.ndarray, "..."]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"an .npy file of version {version}, where depth needs 1.0")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except (tokenize.TokenError, RecursionError, MemoryError) as error:  # numpy parses it as code
        raise ValueError(f"an .npy file whose header is damaged ({error})") from error
    if dtype.kind not in "uif" or math.prod(shape) > MAX_PIXELS:  # before anything is allocated
        raise ValueError(f"an .npy file of {dtype} and shape {shape}")
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def _read_exr(data: bytes, where: str) -> Shaped[np.ndarray, "..."]:
    try:
        import OpenEXR
    except ImportError as error:
        raise SceneError(
            f"{where}: depth is OpenEXR; pip install 'vega3d[exr]', or save it as .npy"
        ) from error
    try:
        _check_exr(OpenEXR.File(io.BytesIO(data), header_only=True), where)
        with OpenEXR.File(io.BytesIO(data)) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    name = next((name for name in ("Z", "Y", "V", "R", "RGB") if name in channels), None)
    if name is None:
        raise ValueError(f"an EXR without a channel Z, Y, V or R; it has {sorted(channels)}")
    pixels = np.asarray(channels[name], dtype=np.float32)
    return pixels[..., 0] if pixels.ndim == 3 else pixels


def _check_exr(file: Any, where: str) -> None:  # noqa: ANN401 - OpenEXR's, without types
    """Refuse a file by its header: a few bytes a row unpack to any width."""
    with file:
        header = file.header()
        low, high = (np.asarray(corner, np.int64) for corner in header["dataWindow"])
        cols, rows = (int(size) for size in high - low + 1)
        channels = len(header["channels"])
    if rows * cols * channels > MAX_PIXELS:
        raise SceneError(
            f"{where}: depth image of {cols}x{rows} pixels in {channels} channels is over the "
            f"limit of {MAX_PIXELS}; scale it down"
        )
