"""The views of a scene that go to a backbone: chosen, decoded, upright, and what was left out.

Memory is bounded: see `pixels`. Letters: H W a colour image, h w a depth image.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from vega3d.pipeline.cores import usable_cores
from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.limits import SCENE_HELD_BYTES
from vega3d.pipeline.scenes.bad_views import check_bad_views, name_bad_views
from vega3d.pipeline.scenes.crew import in_order
from vega3d.pipeline.scenes.pixels import Glance, Pixels, digest_of, glance_pixels
from vega3d.pipeline.scenes.reduced import reduced
from vega3d.pipeline.scenes.sampling import drop_bad_poses, sample_views
from vega3d.pipeline.scenes.scene import BadView, Scene, View
from vega3d.pipeline.scenes.settings import BadViews, Sampling

DECODERS = min(4, usable_cores())
"""Threads that decode a scene's views; its decoders and checksums run without Python's lock. More
than there are cores only take it from one another."""

DECODING_BYTES = 1 << 28
"""Memory that decoding several views at once may take; one view is decoded whatever it takes."""

_DECODING_BYTES_A_BYTE = 4
"""What decoding takes for each byte of a decoded view, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedView:
    """A view with its pixels; its cameras are of these pixels."""

    view: View
    color: Pixels
    """Before any turn, as `depth` and `glance`."""

    depth: Pixels | None
    glance: Glance | None
    turns: int = 0
    """Quarter turns clockwise that were made: its camera is no longer as the source has it."""

    @property
    def rgb(self) -> UInt8[np.ndarray, "H W 3"]:
        """The colour image; it is decoded again where it is not held."""
        return _turned(self.color.get(), self.turns)

    @property
    def depth_m(self) -> Float32[np.ndarray, "h w"] | None:
        """The depth image; it is decoded again where it is not held."""
        return None if self.depth is None else _turned(self.depth.get(), self.turns)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the colour image."""
        return _turned_size(self.color.shape, self.turns)

    @property
    def num_bytes(self) -> int:
        """Size of its pixels when they are decoded."""
        depth_bytes = 0 if self.depth is None else 4 * math.prod(self.depth.shape)
        return math.prod(self.color.shape) + depth_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneReport:
    """How a scene was read, in numbers and in lines for a person."""

    views: int
    """Kept and decoded."""

    with_depth: int
    with_pose: int
    lost_poses: int
    """Views left out because tracking was lost."""

    repeated_views: tuple[str, ...]
    """Views left out because their pixels and depth are those of a view before them."""

    bad_views: tuple[BadView, ...]
    """Views left out because a file is missing or damaged, or a camera cannot be true."""

    notes: tuple[str, ...]

    @property
    def dropped_views(self) -> int:
        """Count the views that were left out for any reason."""
        return self.lost_poses + len(self.repeated_views) + len(self.bad_views)

    def lines(self) -> list[str]:
        """Return what a person should know, a line each; empty where all is well."""
        lines = list(self.notes)
        if self.lost_poses:
            lines.append(f"dropped {self.lost_poses} views without a pose: tracking was lost")
        if self.repeated_views:
            lines.append(
                f"dropped {len(self.repeated_views)} repeated frames, {self.repeated_views[0]} the "
                "first: their pixels and depth are those of an earlier view"
            )
        if self.bad_views:
            lines.append(name_bad_views(self.bad_views))
        return lines


def decode_views(
    scene: Scene,
    *,
    num_views: int,
    sampling: Sampling,
    policy: BadViews = "drop",
    held_bytes: int = SCENE_HELD_BYTES,
    divisor_of: Callable[[int, int], int] | None = None,
) -> tuple[list[DecodedView], SceneReport]:
    """Drop views without a pose, choose views, decode them and turn them upright.

    A view that repeats an earlier one is dropped: compared with itself it would agree. Cameras do
    not count there: who repeats a frame may well interpolate its pose.

    Args:
        scene: As a source gives it.
        num_views: Views to keep at most; 0 keeps all.
        sampling: See `sample_views`.
        policy: What becomes of views that cannot be used: see `check_bad_views`.
        held_bytes: Decoded pixels that are held; what is more is decoded again when asked for.
        divisor_of: See `reduced`.

    Raises:
        SceneError: No view is left, or too many are bad.
    """
    num_listed = len(scene.views) + len(scene.bad_views)
    check_bad_views(scene.scene_id, scene.bad_views, num_listed, policy)
    posed, lost = drop_bad_poses(scene)
    if not posed.views:
        raise SceneError(f"{scene.scene_id}: no view has a finite pose ({lost} dropped)")
    sampled = sample_views(posed, num_views, sampling)
    check_bad_views(scene.scene_id, sampled.bad_views, num_listed, policy)
    views, divisor = reduced(sampled.views, divisor_of)
    decoded, turns, bad, repeated = _decode_all(views, held_bytes, divisor)
    check_bad_views(scene.scene_id, bad, len(sampled.views), policy)
    decoded, turned = _upright(decoded, turns)
    return decoded, SceneReport(
        views=len(decoded),
        with_depth=sum(one.depth is not None for one in decoded),
        with_pose=sum(one.view.world_from_camera is not None for one in decoded),
        lost_poses=lost,
        repeated_views=tuple(repeated),
        bad_views=(*sampled.bad_views, *bad),
        notes=(*scene.notes, *turned),
    )


def turn(one: DecodedView, turns: int) -> DecodedView:
    """Turn a view clockwise by quarter turns: pixels, depth, intrinsics and pose together.

    No point of the world moves: the camera is turned about its own axis.
    """
    turns %= 4
    if turns == 0:
        return one
    view, size = one.view, one.size
    # One turn clockwise: what was to the right (x) is below (y), what was below is to the left.
    turned_from_camera = np.linalg.matrix_power(
        np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), turns
    )
    pose = view.world_from_camera
    turned = replace(
        view,
        K_color=None if view.K_color is None else _turned_intrinsics(view.K_color, size, turns),
        K_color_size=None if view.K_color_size is None else _turned_size(size, turns),
        K_depth=None
        if view.K_depth is None or one.depth is None
        else _turned_intrinsics(view.K_depth, _turned_size(one.depth.shape, one.turns), turns),
        world_from_camera=None if pose is None else pose @ turned_from_camera.T,
        read_color_bytes=None,
        read_turns=None,
    )
    return replace(one, view=turned, turns=(one.turns + turns) % 4)


def _decode_all(
    views: Sequence[View], held_bytes: int, divisor: int
) -> tuple[list[DecodedView], list[int], list[BadView], list[str]]:
    """Return the views that can be used, their turns, those that are bad, and who repeats one."""
    decoded: list[DecodedView] = []
    turns: list[int] = []
    bad: list[BadView] = []
    repeated: list[str] = []
    seen: set[tuple[bytes, bytes]] = set()
    room_bytes, most_pixels = held_bytes, glance_pixels(len(views), held_bytes)
    for view, read in zip(views, _read_all(views, divisor), strict=True):
        if isinstance(read, SceneError):
            bad.append(BadView(view.view_id, str(read)))
            continue
        one = _kept(view, read, room_bytes, most_pixels)
        digests = (one.color.digest, one.depth.digest if one.depth else b"")
        if digests in seen:
            repeated.append(view.view_id)
            continue
        seen.add(digests)
        decoded.append(one)
        turns.append(read.turns)
        room_bytes -= one.color.held_bytes + (one.depth.held_bytes if one.depth else 0)
    return decoded, turns, bad, repeated


@dataclass(frozen=True, slots=True)
class _Read:
    """A view's images, and what tells them from others."""

    turns: int
    rgb: UInt8[np.ndarray, "H W 3"]
    rgb_digest: bytes
    depth_m: Float32[np.ndarray, "h w"] | None
    depth_digest: bytes

    @property
    def num_bytes(self) -> int:
        return self.rgb.nbytes + (0 if self.depth_m is None else self.depth_m.nbytes)


def _read_all(views: Sequence[View], divisor: int) -> Iterator[_Read | SceneError]:
    """Yield each view's images, or why there are none; several are decoded at once.

    A progressive JPEG takes memory for its whole size, by whatever its sides are divided.
    """
    if not views:
        return
    first = _read(views[0])
    size = 0 if isinstance(first, SceneError) else first.num_bytes
    yield first
    del first
    fitting = DECODING_BYTES // max(size * divisor**2 * _DECODING_BYTES_A_BYTE, 1)
    threads = min(DECODERS, fitting) if all(view.is_independent for view in views) else 1
    yield from in_order(_read, views[1:], threads)


def _read(view: View) -> _Read | SceneError:
    try:
        turns = view.read_turns() if view.read_turns else 0
        rgb = view.read_rgb()
        depth_m = None if view.read_depth_m is None else view.read_depth_m()
    except SceneError as error:
        return error
    digest = b"" if depth_m is None else digest_of(depth_m)
    return _Read(turns, rgb, digest_of(rgb), depth_m, digest)


def _kept(view: View, read: _Read, room_bytes: int, most_pixels: int) -> DecodedView:
    color = Pixels.of(read.rgb, view.read_rgb, room_bytes, read.rgb_digest)
    if read.depth_m is None or view.read_depth_m is None:
        return DecodedView(view=view, color=color, depth=None, glance=None)
    room_bytes -= color.held_bytes
    depth = Pixels.of(read.depth_m, view.read_depth_m, room_bytes, read.depth_digest)
    most_pixels = read.depth_m.size if depth.held is not None else most_pixels
    glance = Glance.of(read.depth_m, most_pixels)
    return DecodedView(view=view, color=color, depth=depth, glance=glance)


def _turned(image: np.ndarray, turns: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(image, -turns)) if turns else image


def _upright(
    decoded: Sequence[DecodedView], turns: Sequence[int]
) -> tuple[list[DecodedView], list[str]]:
    """Turn all views, or none where their sizes would then differ: a scene has one image size."""
    turned = [turn(one, by) for one, by in zip(decoded, turns, strict=True)]
    if len({one.size for one in turned}) > len({one.size for one in decoded}):
        return list(decoded), ["some images are upright and some lie on their side; left as stored"]
    return turned, []


def _turned_size(size: tuple[int, ...], turns: int) -> tuple[int, int]:
    return (size[1], size[0]) if turns % 2 else (size[0], size[1])


def _turned_intrinsics(
    K: Float[np.ndarray, "3 3"], size: tuple[int, ...], turns: int
) -> Float64[np.ndarray, "3 3"]:
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    height, width = size[0], size[1]
    for _ in range(turns):  # column' = height - row, row' = column
        fx, fy, cx, cy = fy, fx, height - cy, cx
        height, width = width, height
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
