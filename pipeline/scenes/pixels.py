"""Decoded images, held where there is room and decoded again where there is not.

A scene may hold more pixels than a machine has memory for. Of each image what must be known of all
views together is kept, which is little: its size, its hash, and depth on a coarser grid.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import fastcrc
import numpy as np
from jaxtyping import Float, Float32

from vega3d.pipeline.errors import TransientError
from vega3d.pipeline.limits import SCENE_HELD_BYTES

_GLANCE_SHARE = 8
"""Of what is held, this part may go to coarse depths beside it."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """One image that was decoded, as the source has it."""

    shape: tuple[int, ...]
    digest: bytes = field(repr=False)
    read: Callable[[], np.ndarray] = field(repr=False)
    held: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, image: np.ndarray, read: Callable[[], np.ndarray], room_bytes: int, digest: bytes
    ) -> "Pixels":
        """Return an image that `read` gave; it is held where it fits into `room_bytes`."""
        held = image if image.nbytes <= room_bytes else None
        return cls(image.shape, digest, read, held)

    @property
    def held_bytes(self) -> int:
        """Memory that it takes."""
        return 0 if self.held is None else self.held.nbytes

    def get(self) -> np.ndarray:
        """Return the image; raises TransientError where its file has changed meanwhile."""
        if self.held is not None:
            return self.held
        image = self.read()
        if digest_of(image) != self.digest:
            raise TransientError("an image changed between two readings; do not write to captures "
                                 "while they are read")  # fmt: skip
        return image


@dataclass(frozen=True, slots=True, eq=False)
class Glance:
    """A depth image on a coarser grid, to look at geometry with."""

    depth_m: Float32[np.ndarray, "h w"]
    step: int = 1
    """Every so many rows and columns; odd, so that intrinsics are divided by it and no more."""

    @classmethod
    def of(cls, depth_m: Float32[np.ndarray, "h w"], most_pixels: int) -> "Glance":
        """Return every step-th row and column, so that there are at most about so many pixels."""
        step = int(np.ceil(np.sqrt(depth_m.size / max(most_pixels, 1))))
        step += 1 - step % 2
        if step == 1:
            return cls(depth_m)
        return cls(np.ascontiguousarray(depth_m[step // 2 :: step, step // 2 :: step]), step)

    def intrinsics(self, K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
        """Return the intrinsics of this grid."""
        return K if self.step == 1 else np.diag([1 / self.step, 1 / self.step, 1.0]) @ K


def glance_pixels(num_views: int, held_bytes: int = SCENE_HELD_BYTES) -> int:
    """Return how many pixels of a depth that is not held are kept to look at geometry with."""
    return held_bytes // _GLANCE_SHARE // 4 // max(num_views, 1)


def digest_of(image: np.ndarray) -> bytes:
    """Tell images apart by a checksum, which takes a tenth of a hash's time.

    Whoever makes two images with the same one has one of his own views left out.
    """
    data = np.ascontiguousarray(image).reshape(-1).view(np.uint8).data
    return f"{image.dtype.str}{image.shape}{fastcrc.crc64.xz(data)}".encode()
