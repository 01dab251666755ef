"""A reader from outside the tree: `toy:3` is three scenes of a plane at a metre, seen twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vega3d.pipeline.scenes.scene import Scene, SceneEntry, View

HEIGHT, WIDTH = 48, 64


def read(location: str) -> "Planes":
    """Return the source that a location such as `toy:3` names."""
    return Planes(int(location.removeprefix("toy:")))


@dataclass(frozen=True)
class Planes:
    """So many scenes of one textured plane."""

    count: int

    def entries(self) -> Sequence[SceneEntry]:
        """List every scene."""
        return [
            SceneEntry(scene_id=f"plane{index}", num_views=4, size_bytes=0)
            for index in range(self.count)
        ]

    def read(self, scene_id: str) -> Scene:
        """Return one scene: cameras that step sideways in front of the plane."""
        return Scene(scene_id, tuple(self._view(scene_id, index) for index in range(4)))

    def _view(self, scene_id: str, index: int) -> View:
        K = np.array([[64.0, 0, WIDTH / 2], [0, 64.0, HEIGHT / 2], [0, 0, 1]])
        world_from_camera = np.eye(4)
        world_from_camera[0, 3] = 0.1 * index

        def read_rgb() -> np.ndarray:
            x = (np.arange(WIDTH) + 0.5 - WIDTH / 2) / 64 + 0.1 * index
            y = (np.arange(HEIGHT) + 0.5 - HEIGHT / 2) / 64
            phase = int(scene_id.removeprefix("plane"))
            waves = [np.sin(9 * x + phase)[None], np.cos(7 * y)[:, None], np.sin(5 * x - 3)[None]]
            colours = np.stack(np.broadcast_arrays(*waves), axis=-1)
            return (127.5 + 120 * colours).astype(np.uint8)

        def read_depth_m() -> np.ndarray:
            return np.ones((HEIGHT, WIDTH), dtype=np.float32)

        return View(
            view_id=str(index),
            read_rgb=read_rgb,
            read_depth_m=read_depth_m,
            K_color=K,
            K_depth=K,
            world_from_camera=world_from_camera,
        )
