"""Where every token of a pairing is: one table of all views, filled scene by scene as it is read.

A batch takes its rows in one step an array, which keeps the loader as fast as the disk.

Letters: B samples, V views of a sample, N tokens of a view. Cameras are OpenCV cameras, metres.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float32, Int64


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where a scene's tokens are, and which of them take part."""

    valid: Bool[np.ndarray, "V N"]
    """True where both streams saw some of the token."""

    has_depth: Bool[np.ndarray, "V N"]
    """True where besides enough of its pixels were measured and the pose is known."""

    xyz_world: Float32[np.ndarray, "V N 3"]
    """Metres; NaN where `has_depth` is False."""

    xyz_camera: Float32[np.ndarray, "V N 3"]
    """The same point in its view's camera."""

    world_from_camera: Float32[np.ndarray, "V 4 4"]
    """Poses; NaN where unknown."""

    labels: Int64[np.ndarray, "V N"] | None
    """Class of a token, -1 for none; None without a label store."""


class GeometryTable:
    """The geometry of all scenes, 5 KB a view of 196 tokens; safe to share between threads."""

    def __init__(self, num_views: Mapping[str, int], read: Callable[[str], Geometry]) -> None:
        """Plan the rows; a scene is read when it is first asked for.

        Args:
            num_views: Views of every scene.
            read: Gives a scene's geometry.
        """
        self._read = read
        starts = np.cumsum([0, *num_views.values()])
        self._start = {name: int(row) for name, row in zip(num_views, starts[:-1], strict=True)}
        self._total = int(starts[-1])
        self._arrays: dict[str, np.ndarray] = {}
        self._there: set[str] = set()
        self._lock = threading.Lock()

    def rows(
        self, scene_ids: Sequence[str], views: Sequence[Sequence[int]]
    ) -> Int64[np.ndarray, "B V"]:
        """Return the rows of the samples' views, after reading the scenes that are not there."""
        for scene_id in scene_ids:
            if scene_id not in self._there:
                self._add(scene_id)
        starts = np.array([self._start[scene_id] for scene_id in scene_ids], dtype=np.int64)
        return starts[:, None] + np.array(views, dtype=np.int64)

    def scene(self, scene_id: str, num_views: int) -> dict[str, np.ndarray]:
        """Return one scene's arrays [V, ...]."""
        found = self.take(self.rows([scene_id], [range(num_views)]))
        return {name: array[0] for name, array in found.items()}

    def take(self, rows: Int64[np.ndarray, "B V"]) -> dict[str, np.ndarray]:
        """Return new arrays [B, V, ...] by the names of `Geometry`'s fields."""
        return {name: array.take(rows, axis=0) for name, array in self._arrays.items()}

    def _add(self, scene_id: str) -> None:
        geometry = self._read(scene_id)
        with self._lock:
            for field in fields(geometry):
                values = getattr(geometry, field.name)
                if values is None:
                    continue
                if field.name not in self._arrays:
                    shape = (self._total, *values.shape[1:])
                    self._arrays[field.name] = np.empty(shape, values.dtype)
                start = self._start[scene_id]
                self._arrays[field.name][start : start + len(values)] = values
            self._there.add(scene_id)  # last: only now may others take its rows
