"""Video files as scenes without depth or pose: PyAV decodes, and frames are views.

A scene id is the file's path below the location, without its suffix; a view id is the frame's
number in order of presentation, from 0. Pixels are shown as a player shows them: a rotation in the
container's display matrix (phones) is applied in steps of 90 degrees.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.local_files import check_plain
from vega3d.pipeline.scenes.fingerprints import Fingerprint, of_files
from vega3d.pipeline.scenes.images import MAX_PIXELS
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, View, check_unique, natural_key

_LEAST_FRAME_BYTES = 8
"""Of one frame in any container; a count that needs more bytes than the file has is a lie."""

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


@dataclass(frozen=True, slots=True)
class Videos:
    """The videos below a folder, or the one that it is."""

    root: str

    def entries(self) -> Sequence[SceneEntry]:
        """List every video; frame counts come from the containers, and nothing is decoded.

        One that cannot be opened is listed with no views, and reading it says why.
        """
        places = [(self._scene_id(path), path) for path in _walk(self.root)]
        check_unique(places)
        return [
            SceneEntry(
                scene_id=scene_id, num_views=_num_frames(path), size_bytes=os.path.getsize(path)
            )
            for scene_id, path in sorted(places, key=lambda place: natural_key(place[0]))
        ]

    def read(self, scene_id: str) -> Scene:
        """Return the frames, decoded when asked for; in order is cheap, backwards starts over.

        Raises:
            SceneError: No such video, or one without frames.
        """
        path = next((path for path in _walk(self.root) if self._scene_id(path) == scene_id), None)
        if path is None:
            raise SceneError(f"{scene_id}: there is no such video in {self.root}")
        frames = _Frames(path, scene_id)
        width = max(6, len(str(frames.count - 1)))
        views = (
            View(view_id=f"{index:0{width}d}", read_rgb=partial(frames.read_rgb, index))
            for index in range(frames.count)
        )
        return Scene(scene_id, tuple(views))

    def fingerprint(self, scene_id: str) -> Fingerprint:
        """Return how a video's file looks."""
        paths = [path for path in _walk(self.root) if self._scene_id(path) == scene_id]
        return of_files(paths, self.root)

    def _scene_id(self, path: str) -> str:
        if path == self.root:
            return Path(path).stem
        return Path(path).relative_to(self.root).with_suffix("").as_posix()


def holds_videos(root: str) -> bool:
    """Say whether a file with a video's suffix lies below `root`."""
    return next(_walk(root), None) is not None


def _walk(root: str) -> Iterator[str]:
    if os.path.isfile(root):
        yield root
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(folder, name)


def _num_frames(path: str) -> int:
    try:
        with _open(path, path) as container:
            return _count(container)
    except SceneError:
        return 0


def _open(path: str, scene_id: str) -> Any:  # noqa: ANN401 - PyAV's container
    import av

    try:
        check_plain(path)
        container = av.open(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SceneError(f"{scene_id}: {path} is no readable video ({error})") from error
    for stream in container.streams.video:
        # Refused before it is decoded: a header may claim small frames and hold large ones.
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    if not container.streams.video:
        container.close()
        raise SceneError(f"{scene_id}: {path} has no video stream; it may be audio only")
    return container


def _count(container: Any) -> int:  # noqa: ANN401 - PyAV's container
    """Return the container's own count, or its packets where it keeps none (webm, mkv) or lies."""
    import av

    stream = container.streams.video[0]
    if 0 < stream.frames <= container.size // _LEAST_FRAME_BYTES:
        return int(stream.frames)
    try:
        return sum(packet.size > 0 for packet in container.demux(stream))
    except av.FFmpegError:
        return 0


class _Frames:
    """One decoder that moves forward; asked for an earlier frame, it starts at the beginning."""

    def __init__(self, path: str, scene_id: str) -> None:
        self._path, self._scene_id = path, scene_id
        self._lock = threading.Lock()
        self._next = 0
        with _open(path, scene_id) as container:
            self.count = _count(container)
            stream = container.streams.video[0]
            num_pixels = stream.width * stream.height
        if self.count == 0:
            raise SceneError(f"{scene_id}: {path} has no frames")
        if num_pixels > MAX_PIXELS:
            raise SceneError(
                f"{scene_id}: frames of {num_pixels} pixels are over the limit of {MAX_PIXELS}"
            )
        self._decoded: Iterator[Any] | None = None

    def read_rgb(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Decode one frame."""
        where = f"{self._scene_id}/view {index}"
        with self._lock:
            frame = self._seek(index, where)
            if frame.width * frame.height > MAX_PIXELS:  # whatever the header said
                raise SceneError(
                    f"{where}: {frame.width}x{frame.height} pixels are over the limit of "
                    f"{MAX_PIXELS}"
                )
            rgb = np.asarray(frame.to_ndarray(format="rgb24"))
            if frame.rotation % 90:
                raise SceneError(
                    f"{where}: is rotated by {frame.rotation} degrees; only steps of 90 are known"
                )
            return np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90))

    def _seek(self, index: int, where: str) -> Any:  # noqa: ANN401 - PyAV's frame
        import av

        if self._decoded is None or index < self._next:
            self._decoded, self._next = _decode(_open(self._path, self._scene_id)), 0
        try:
            while True:
                frame = next(self._decoded)
                self._next += 1
                if self._next == index + 1:
                    return frame
        except (StopIteration, av.FFmpegError, OSError) as error:
            # A generator that raised is spent: the next call must start over.
            self._decoded = None
            raise SceneError(
                f"{where}: {self._path} ends after {self._next} of {self.count} frames, or is "
                f"damaged there ({error})"
            ) from error


def _decode(container: Any) -> Iterator[Any]:  # noqa: ANN401 - PyAV's container and frames
    with container:
        yield from container.decode(container.streams.video[0])
