"""Views of a scene source as arrays on disk: decoded or rendered once, read at random.

No torch here: the processes that render import this file.

Letters: S scenes, V views of each, H W pixels.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from PIL import Image

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import whole_file
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.scene import Scene, SceneSource
from vega3d.train.pretrain.config import GeneratorConfig, PretrainRun

SCENES_A_FILE = 50
_log = logging.getLogger(__name__)
P = TypeVar("P")
R = TypeVar("R")


@runtime_checkable
class Describes(Protocol):
    """A scene source that says what its views show."""

    def phrases(self, scene_id: str) -> list[list[str]]:
        """Return each view's phrases."""
        ...


def cache_views(
    location: str, folder: Path, height: int, width: int, workers: int = 1
) -> list[np.ndarray]:
    """Return the pictures of all scenes, [S, V, H, W, 3] uint8, a file for every 50 scenes.

    Files that are there already are taken as they are; `workers` processes make the others. Every
    scene gives as many views as the shortest has.

    Raises:
        UsageError: A source without scenes.
    """
    entries = read_scenes(location).entries()
    if not entries:
        raise UsageError(f"{location} holds no scenes to train on")
    num_views = min(entry.num_views for entry in entries)
    ids = [entry.scene_id for entry in entries]
    make = partial(_read_pictures, location, num_views, height, width)
    return cached(ids, folder, "views", make, workers)


def cache_phrases(location: str, folder: Path, workers: int = 1) -> list[list[list[str]]]:
    """Return the phrases of every view of every scene, kept in a file.

    Raises:
        UsageError: The source does not describe its views.
    """
    path = folder / "phrases.json"
    if not path.exists():
        source = read_scenes(location)
        if not isinstance(source, Describes):
            raise UsageError(
                f"{location} says nothing about its views; a text half needs phrases, as rooms have"
            )
        ids = [entry.scene_id for entry in source.entries()]
        parts = [ids[start : start + SCENES_A_FILE] for start in range(0, len(ids), SCENES_A_FILE)]
        made = spread(partial(_read_phrases, location), parts, workers)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps([scene for part in made for scene in part]))
    phrases: list[list[list[str]]] = json.loads(path.read_text())
    return phrases


def fill_cache(config: GeneratorConfig, run: PretrainRun) -> dict[str, Any]:
    """Make the views that several runs share; returns where they are, and how many."""
    if not run.cache:
        raise UsageError("views are made for runs to share: give them a folder with --cache")
    folder = views_folder(config.scenes, config.height, config.width, run.cache, Path(run.cache))
    begun = time.monotonic()
    parts = cache_views(config.scenes, folder, config.height, config.width, run.workers)
    return {
        "folder": str(folder),
        "scenes": sum(len(part) for part in parts),
        "views": parts[0].shape[1],
        "wall_s": round(time.monotonic() - begun, 1),
    }


def views_folder(location: str, height: int, width: int, cache: str, run_dir: Path) -> Path:
    """Return where the views of a source are kept at a size."""
    key = hashlib.sha256(f"{location} {height} {width}".encode()).hexdigest()[:12]
    return (Path(cache) if cache else run_dir) / f"views-{key}"


def cached(
    ids: Sequence[str],
    folder: Path,
    name: str,
    make: Callable[[Sequence[str]], np.ndarray],
    workers: int = 1,
) -> list[np.ndarray]:
    """Return one mapped array for every 50 scenes, made where its file is not there yet."""
    starts = range(0, len(ids), SCENES_A_FILE)
    paths = [folder / f"{name}-{start // SCENES_A_FILE:04d}.npy" for start in starts]
    missing = [
        (path, ids[start : start + SCENES_A_FILE])
        for path, start in zip(paths, starts, strict=True)
        if not path.exists()
    ]
    begun = time.monotonic()
    for done, _ in enumerate(spread(partial(_make_file, make), missing, workers)):
        _log.info("%s: %d of %d, %.0f s", name, done + 1, len(missing), time.monotonic() - begun)
    return [np.load(path, mmap_mode="r") for path in paths]


def spread(make: Callable[[P], R], parts: Sequence[P], workers: int) -> Iterator[R]:
    """Yield what is made of each part, in order, by several processes where `workers` says so."""
    workers = min(workers, len(parts))
    if workers < 2:
        yield from map(make, parts)
        return
    # spawn: a forked child of a process that used the GPU cannot live.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(make, parts)


def scene_depth(source: SceneSource, scene_id: str, num_views: int) -> np.ndarray:
    """Return depth [V, H, W] of a scene's first views, metres."""
    readers = [view.read_depth_m for view in source.read(scene_id).views[:num_views]]
    if None in readers:
        raise UsageError(f"{scene_id}: scenes that are scored need depth")
    return np.stack([read() for read in readers if read])


def _make_file(
    make: Callable[[Sequence[str]], np.ndarray], job: tuple[Path, Sequence[str]]
) -> None:
    path, ids = job
    made = make(ids)
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, made)  # with a name, it would add .npy to it


def _read_pictures(
    location: str, num_views: int, height: int, width: int, ids: Sequence[str]
) -> np.ndarray:
    source = read_scenes(location)
    return np.stack([_pictures(source.read(i), num_views, height, width) for i in ids])


def _read_phrases(location: str, ids: Sequence[str]) -> list[list[list[str]]]:
    source = read_scenes(location)
    assert isinstance(source, Describes)
    return [source.phrases(scene_id) for scene_id in ids]


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
