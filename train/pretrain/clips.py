"""Views of a scene source as arrays on disk: decoded or rendered once, read at random.

Letters: S scenes, V views of each, H W pixels.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import whole_file
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.scene import Scene, SceneSource

SCENES_A_FILE = 50
_log = logging.getLogger(__name__)


def cache_views(location: str, folder: Path, height: int, width: int) -> list[np.ndarray]:
    """Return the pictures of all scenes, [S, V, H, W, 3] uint8, a file for every 50 scenes.

    Files that are there already are taken as they are. Every scene gives as many views as the
    shortest has.

    Raises:
        UsageError: A source without scenes.
    """
    source = read_scenes(location)
    entries = source.entries()
    if not entries:
        raise UsageError(f"{location} holds no scenes to train on")
    num_views = min(entry.num_views for entry in entries)
    ids = [entry.scene_id for entry in entries]

    def read(scene_ids: Sequence[str]) -> np.ndarray:
        scenes = (source.read(scene_id) for scene_id in scene_ids)
        return np.stack([_pictures(scene, num_views, height, width) for scene in scenes])

    return cached(ids, folder, "views", read)


def views_folder(location: str, height: int, width: int, cache: str, run_dir: Path) -> Path:
    """Return where the views of a source are kept at a size."""
    key = hashlib.sha256(f"{location} {height} {width}".encode()).hexdigest()[:12]
    return (Path(cache) if cache else run_dir) / f"views-{key}"


def cached(
    ids: Sequence[str], folder: Path, name: str, make: Callable[[Sequence[str]], np.ndarray]
) -> list[np.ndarray]:
    """Return one mapped array for every 50 scenes, made where its file is not there yet."""
    parts = []
    for start in range(0, len(ids), SCENES_A_FILE):
        path = folder / f"{name}-{start // SCENES_A_FILE:04d}.npy"
        if not path.exists():
            begun = time.process_time()
            made = make(ids[start : start + SCENES_A_FILE])
            with whole_file(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, made)  # to a name it would add .npy
            _log.info("%s: %.0f CPU s", path.name, time.process_time() - begun)
        parts.append(np.load(path, mmap_mode="r"))
    return parts


def scene_arrays(source: SceneSource, scene_id: str, num_views: int) -> tuple[np.ndarray, ...]:
    """Return RGB and depth of a scene's first views."""
    views = source.read(scene_id).views[:num_views]
    if any(view.read_depth_m is None for view in views):
        raise UsageError(f"{scene_id}: scenes that are scored need depth")
    rgb = np.stack([view.read_rgb() for view in views])
    depth_m = np.stack([view.read_depth_m() for view in views if view.read_depth_m])
    return rgb, depth_m


def _pictures(scene: Scene, num_views: int, height: int, width: int) -> np.ndarray:
    return np.stack([_fitted(view.read_rgb(), height, width) for view in scene.views[:num_views]])


def _fitted(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the picture's middle to the wanted aspect, and shrink it."""
    if rgb.shape[:2] == (height, width):
        return rgb
    scale = min(rgb.shape[0] / height, rgb.shape[1] / width)
    rows, cols = round(height * scale), round(width * scale)
    top, left = (rgb.shape[0] - rows) // 2, (rgb.shape[1] - cols) // 2
    cut = Image.fromarray(rgb[top : top + rows, left : left + cols])
    return np.asarray(cut.resize((width, height), Image.Resampling.BOX))
