"""Files of released per-scene caches: which there are, whose, what they hold, which views.

One tensor [V, C, h, w] a scene and nothing else: no name of a view. See `released_caches`.
"""

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import SafetensorError

from vega3d.pipeline.errors import SceneError, UsageError
from vega3d.pipeline.scenes.scene import SceneSource

KINDS = (".pt", ".pth", ".npy", ".safetensors")
UNIFORM = "uniform"
"""Views named as the released code samples them, where no file names them."""

_UNREADABLE = (OSError, ValueError, TypeError, RuntimeError, EOFError, KeyError, IndexError,
               pickle.UnpicklingError, SafetensorError)  # fmt: skip
"""What torch, numpy and safetensors raise where a file is damaged or holds something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """One scene's file."""

    path: Path
    scene_id: str
    view_ids: tuple[str, ...]
    """Of each view in the file, in its order."""


def find_caches(
    files: Sequence[Path], view_ids: str, captures: SceneSource | None, *, cond_half: bool = False
) -> list[Cache]:
    """Return the caches in some files and folders, each with its scene and the names of its views.

    A file is a scene by its own name, or by its folder's where all have one name (`seva.pt`).

    Args:
        files: Files, or folders of files or of folders with one file each.
        view_ids: A JSON file, scene -> names in the order of the cache; or `uniform`: those that
            `np.linspace(0, n - 1, V)` takes of the n views that the capture lists.
        captures: Of the same scenes.
        cond_half: See `read_cache`.

    Raises:
        UsageError: There is no file, a scene is not named, or nobody says what its views are.
    """
    known = {} if captures is None else _scene_ids(captures)
    named = _by_scene(files, known)
    if captures is not None and (lost := sorted(named.keys() - known.keys())):
        raise UsageError(f"--scenes has no {', '.join(lost[:3])} ({len(lost)} in all)")
    if not view_ids:
        raise UsageError(
            "released caches do not say which views they hold: give --view-ids, a JSON file "
            '{"scene0000_00": ["00000", "00010", ...]}, or `uniform` with --scenes'
        )
    if view_ids == UNIFORM:
        if captures is None:
            raise UsageError("--view-ids uniform needs --scenes, whose views are counted")
        counts = {name: len(read_cache(path, cond_half=cond_half)) for name, path in named.items()}
        ids = {name: _uniform(captures, known[name], count) for name, count in counts.items()}
    else:
        ids = _named_views(Path(view_ids), named)
    return [
        Cache(path=path, scene_id=known.get(name, name), view_ids=ids[name])
        for name, path in sorted(named.items())
    ]


def read_cache(path: Path, *, cond_half: bool = False) -> Float32[np.ndarray, "V C h w"]:
    """Return a cache's features.

    Args:
        path: A tensor in .pt (nothing but tensors is unpickled), an array in .npy, or a
            .safetensors with one tensor.
        cond_half: Keep the second half along the first axis, which older caches have after the
            unconditional one.

    Raises:
        SceneError: It holds something else.
    """
    try:
        found = _tensor(path)
    except _UNREADABLE as error:
        raise SceneError(f"{path.name} cannot be read ({type(error).__name__})") from error
    if found.ndim != 4 or not torch.is_floating_point(found) or 0 in found.shape:
        raise SceneError(
            f"{path.name} must hold features [V, C, h, w], found {found.dtype} {list(found.shape)}"
        )
    if cond_half:
        if len(found) % 2:
            raise SceneError(f"{path.name} has {len(found)} rows, which are no two halves")
        found = found[len(found) // 2 :]
    return np.asarray(found.float().numpy())


def _by_scene(files: Sequence[Path], known: Mapping[str, str]) -> dict[str, Path]:
    """Return each scene's file, by the file's name or by its folder's."""
    paths = list(_files(files))
    if not paths:
        asked = ", ".join(map(str, files))
        raise UsageError(f"no file of the kinds {', '.join(KINDS)} among {asked}")
    repeated = len({path.stem for path in paths}) < len(paths)
    by_folder = repeated or (bool(known) and not any(path.stem in known for path in paths))
    named = {(path.parent.name if by_folder else path.stem): path for path in paths}
    if len(named) < len(paths):
        raise UsageError(f"{len(paths)} files name {len(named)} scenes; import one cache a scene")
    return named


def _files(files: Sequence[Path]) -> Iterator[Path]:
    for path in files:
        if path.is_dir():
            found = [*path.glob("*"), *path.glob("*/*")]
            yield from sorted(one for one in found if one.suffix in KINDS and one.is_file())
        else:
            yield path


def _scene_ids(captures: SceneSource) -> dict[str, str]:
    """Return each scene's id by itself and by its last part (`scannet/scene0000_00`)."""
    ids = [entry.scene_id for entry in captures.entries()]
    return {**{name.rpartition("/")[2]: name for name in ids}, **{name: name for name in ids}}


def _uniform(captures: SceneSource, scene_id: str, count: int) -> tuple[str, ...]:
    """Return the views that the released code takes; one of few views comes more than once."""
    names = [view.view_id for view in captures.read(scene_id).views]
    return tuple(names[i] for i in np.linspace(0, len(names) - 1, count, dtype=int))


def _named_views(path: Path, named: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    try:
        held = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--view-ids {path}: {error}") from error
    found = {}
    for name in named:
        ids = held.get(name) if isinstance(held, dict) else None
        if not isinstance(ids, list) or not ids or not all(isinstance(one, str) for one in ids):
            raise UsageError(f"--view-ids {path} must give {name} a list of names, found {ids!r}")
        found[name] = tuple(ids)
    return found


def _tensor(path: Path) -> torch.Tensor:
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        (found,) = load_file(path).values()
        return found
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Mapping):
        (loaded,) = loaded.values()
    if not isinstance(loaded, torch.Tensor):
        raise TypeError(f"no tensor: {type(loaded).__name__}")
    return loaded
