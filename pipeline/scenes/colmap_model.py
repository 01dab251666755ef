"""COLMAP's sparse models, text and binary: cameras and the poses of images, no points.

Read by hand: pycolmap 4.2 (135 MB installed) refuses a model whose points are missing, reads all
points where they are there, and cuts names at their first blank.

Source: COLMAP, doc/format.rst and src/colmap/scene/reconstruction_io.cc.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.local_files import open_plain
from vega3d.pipeline.scenes.lenses import COLMAP_PARAMS
from vega3d.pipeline.scenes.poses import inverse, pose_from_quaternion
from vega3d.pipeline.shapes import Float64

_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE",
           "FULL_OPENCV", "FOV", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE",
           "THIN_PRISM_FISHEYE")  # fmt: skip
"""By the number in cameras.bin."""

_PARAMS: Mapping[str, int] = {**COLMAP_PARAMS, "FOV": 5, "THIN_PRISM_FISHEYE": 12}
_LONGEST_NAME = 4096


@dataclass(frozen=True, slots=True)
class ColmapCamera:
    """A camera as COLMAP names it."""

    model: str
    size: tuple[int, int]
    """Rows and columns."""

    params: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ColmapImage:
    """A registered image."""

    name: str
    camera_id: int
    qvec_wxyz: tuple[float, ...]
    tvec: tuple[float, ...]

    def world_from_camera(self, where: str) -> Float64[np.ndarray, "4 4"]:
        """Return its pose; COLMAP stores camera from world, OpenCV axes."""
        w, x, y, z = self.qvec_wxyz
        return inverse(pose_from_quaternion((x, y, z, w), self.tvec, where))


def read_model(
    cameras_path: str, images_path: str, scene_id: str
) -> tuple[dict[int, ColmapCamera], list[ColmapImage]]:
    """Read cameras and images, each .txt or .bin; images are sorted by name.

    Raises:
        SceneError: Truncated, or something that no model holds.
        OSError: A file cannot be read.
    """
    try:
        with open_plain(cameras_path) as file:
            read_cameras = _cameras_bin if cameras_path.endswith(".bin") else _cameras_txt
            cameras = dict(read_cameras(file))
        with open_plain(images_path) as file:
            read_images = _images_bin if images_path.endswith(".bin") else _images_txt
            images = sorted(read_images(file), key=lambda image: image.name)
    except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise SceneError(
            f"{scene_id}: its COLMAP model cannot be understood ({type(error).__name__}: {error}); "
            "is it truncated?"
        ) from error
    return cameras, images


def count_images(path: str) -> int:
    """Return how many images a model has, from its head where that says so."""
    with open_plain(path) as file:
        if path.endswith(".bin"):
            head = file.read(8)
            return int(struct.unpack("<Q", head)[0]) if len(head) == 8 else 0
        for line in file:
            if not line.startswith(b"#"):
                break
            words = line.replace(b",", b" ").split()
            if words[:4] == [b"#", b"Number", b"of", b"images:"] and words[4].isdigit():
                return int(words[4])
        file.seek(0)
        return sum(1 for _ in _images_txt(file))


def _cameras_txt(file: BufferedReader) -> Iterator[tuple[int, ColmapCamera]]:
    for line in file:
        words = line.decode("utf-8-sig").split()
        if not words or words[0].startswith("#"):
            continue
        params = tuple(float(word) for word in words[4:])
        yield int(words[0]), ColmapCamera(words[1], (int(words[3]), int(words[2])), params)


def _images_txt(file: BufferedReader) -> Iterator[ColmapImage]:
    for line in file:
        text = line.decode("utf-8-sig", "surrogateescape").strip()
        if not text or text.startswith("#"):
            continue
        words = text.split(maxsplit=9)
        numbers = [float(word) for word in words[1:8]]
        yield ColmapImage(words[9], int(words[8]), tuple(numbers[:4]), tuple(numbers[4:]))
        file.readline()  # its points, which may be an empty line


def _cameras_bin(file: BufferedReader) -> Iterator[tuple[int, ColmapCamera]]:
    (count,) = _unpack(file, "<Q")
    for _ in range(count):
        camera_id, model, width, height = _unpack(file, "<iiQQ")
        if not 0 <= model < len(_MODELS):
            raise ValueError(f"camera model number {model} is not known")
        name = _MODELS[model]
        params = _unpack(file, f"<{_PARAMS[name]}d")
        yield camera_id, ColmapCamera(name, (height, width), params)


def _images_bin(file: BufferedReader) -> Iterator[ColmapImage]:
    (count,) = _unpack(file, "<Q")
    for _ in range(count):
        _, *numbers, camera_id = _unpack(file, "<i7di")
        name = _name(file)
        (num_points,) = _unpack(file, "<Q")
        file.seek(24 * num_points, 1)
        yield ColmapImage(name, camera_id, tuple(numbers[:4]), tuple(numbers[4:]))


def _name(file: BufferedReader) -> str:
    name = bytearray()
    while (letter := file.read(1)) != b"\0":
        if not letter or len(name) > _LONGEST_NAME:
            raise ValueError("an image's name has no end")
        name += letter
    return name.decode("utf-8", "surrogateescape")


def _unpack(file: BufferedReader, form: str) -> tuple[Any, ...]:
    size = struct.calcsize(form)
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"it ends {size - len(data)} bytes too early")
    return struct.unpack(form, data)
