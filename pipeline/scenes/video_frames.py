"""Frames of a video by their times: for formats that keep many clips in one file."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.local_files import check_plain
from vega3d.pipeline.scenes.images import MAX_PIXELS
from vega3d.pipeline.shapes import UInt8

_FORWARD_S = 2.0
"""A frame that is due within so long is reached by decoding on, a later one by seeking."""


class TimedFrames:
    """A clip inside a video: frame i is the one shown at start_s + i * step_s.

    One decoder moves forward; asked for an earlier or a far later frame, it seeks.
    """

    def __init__(self, path: str, where: str, step_s: float, start_s: float) -> None:
        """Open nothing yet.

        Args:
            path: The video.
            where: Names the clip in messages.
            step_s: Time between frames.
            start_s: When the clip begins.
        """
        self._path, self._where, self._step_s, self._start_s = path, where, step_s, start_s
        self._lock = threading.Lock()
        self._decoded: Iterator[tuple[float, Any]] | None = None
        self._at_s = 0.0

    def read_rgb(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Decode one frame; raises SceneError where the video has none at its time."""
        time_s = self._start_s + index * self._step_s
        with self._lock:
            try:
                return self._frame(index, time_s)
            except SceneError:
                self._decoded = None
                raise

    def _frame(self, index: int, time_s: float) -> UInt8[np.ndarray, "H W 3"]:
        import av

        # `_at_s` is when the next frame is due; half a frame, since times are rounded.
        if self._decoded is None or not -self._step_s / 2 < time_s - self._at_s < _FORWARD_S:
            self._decoded = _decode_from(self._path, time_s)
        try:
            for shown_s, frame in self._decoded:
                self._at_s = shown_s + self._step_s
                if abs(shown_s - time_s) <= self._step_s / 2:
                    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
                if shown_s > time_s:
                    break
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SceneError(
                f"{self._where}: {self._path} cannot be decoded at {time_s:.3f} s ({error})"
            ) from error
        raise SceneError(
            f"{self._where}: {self._path} has no frame at {time_s:.3f} s (frame {index})"
        )


def _decode_from(path: str, time_s: float) -> Iterator[tuple[float, Any]]:
    import av

    check_plain(path)
    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        stream = container.streams.video[0]
        if stream.width * stream.height > MAX_PIXELS:
            raise ValueError(f"frames are over the limit of {MAX_PIXELS} pixels")
        base = float(stream.time_base)
        # Seeking lands on the key frame before; one base unit earlier, since times are rounded.
        container.seek(max(0, round(time_s / base) - 1), stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None:
                yield float(frame.pts) * base, frame
