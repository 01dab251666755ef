"""The class of each token: from a label store, or from procedural rooms, which know it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.rooms.rooms import Rooms
from vega3d.pipeline.scenes.rooms.truth import LABELS, label_cells, view_truth
from vega3d.pipeline.store.store import open_store

CLEAR_SHARE = 0.6
"""Share of a token's pixels that a room's class must have to be asked for."""

Labels = Callable[[str, Sequence[str], tuple[int, int]], Int[np.ndarray, "V h w"]]
"""Scene, its views and the token grid -> class of every token, -1 for none."""


def open_labels(location: str) -> Labels:
    """Open a label store (one channel, the class of a token, NaN for none), or `rooms:...`.

    Raises:
        UsageError: It is neither.
    """
    if location.startswith("rooms:"):
        source = read_scenes(location)
        assert isinstance(source, Rooms)
        seen: dict[tuple[object, ...], np.ndarray] = {}  # casting takes longer than probing

        def of_room(
            scene_id: str, views: Sequence[str], grid: tuple[int, int]
        ) -> Int[np.ndarray, "V h w"]:
            key = scene_id, tuple(views), grid
            if key not in seen:
                seen[key] = _of_room(source, scene_id, views, grid)
            return seen[key]

        return of_room
    store = open_store(location)
    if len(store.taps) != 1 or store.num_channels(store.taps[0]) != 1:
        raise UsageError(
            f"{location}: a label store has one tap of one channel, the class of a token (NaN for "
            f"none); it has taps {list(store.taps)}"
        )
    return lambda scene_id, views, grid: _of_store(store, scene_id, views, grid)


def check_same_rooms(location: str, url: str, views: Mapping[str, Sequence[str]]) -> None:
    """Refuse rooms whose cameras are not those of a store: their classes would be other rooms'.

    Args:
        location: Of the labels; nothing is asked of a label store.
        url: Of the store that is probed.
        views: Scene -> views that are asked of it.

    Raises:
        UsageError: A scene's first view was taken from elsewhere, or by another camera.
    """
    if not location.startswith("rooms:"):
        return
    source, store = read_scenes(location), open_store(url)
    known = {entry.scene_id for entry in source.entries()}
    for scene_id in sorted(views.keys() & known & set(store.scene_ids)):
        drawn, ids = source.read(scene_id).views[0], store.view_ids(scene_id)
        if drawn.view_id not in ids:
            continue
        row = ids.index(drawn.view_id)
        K, stored_K = np.asarray(drawn.K_color), store.intrinsics(scene_id)[row]
        for name, theirs, ours in (
            ("poses", np.asarray(drawn.world_from_camera), store.world_from_camera(scene_id)[row]),
            ("field of view", K / K[0, 2], stored_K / stored_K[0, 2]),  # whatever its size
        ):
            if np.isfinite(ours).all() and not np.allclose(theirs, ours, atol=1e-4):
                raise UsageError(
                    f"--labels {location}: {scene_id} has other {name} than in {url}; ask for the "
                    "rooms that the store was made of, with their seed, views, height and width"
                )


def labels_digest(location: str) -> str:
    """Return what tells these labels from others: of a store its digest, of rooms their name."""
    told = not location or location.startswith("rooms:")
    return location if told else str(open_store(location).digest())


def _of_store(
    store: Any,  # noqa: ANN401 - one store or several
    scene_id: str,
    views: Sequence[str],
    grid: tuple[int, int],
) -> Int[np.ndarray, "V h w"]:
    if scene_id not in store.scene_ids:
        return np.full((len(views), *grid), -1)
    if store.grid != grid:
        raise UsageError(f"{store.url}: labels are on a grid of {store.grid}, features on {grid}")
    place = {view: row for row, view in enumerate(store.view_ids(scene_id))}
    held = store.features(scene_id)[..., 0]
    labels = np.full((len(views), *grid), -1)
    for row, view in enumerate(views):
        if view in place:
            values = held[place[view]]
            labels[row] = np.where(np.isfinite(values), values, -1)
    return labels


def _of_room(
    source: Rooms, scene_id: str, views: Sequence[str], grid: tuple[int, int]
) -> Int[np.ndarray, "V h w"]:
    film = source.film(scene_id)
    labels = np.full((len(views), *grid), -1)
    for row, view in enumerate(views):
        if not view.isdecimal() or int(view) >= source.views:
            raise UsageError(f"--labels: {scene_id} has views 0000 to {source.views - 1:04d}")
        label, share = label_cells(view_truth(film, int(view)).label, grid)
        labels[row] = np.where((share >= CLEAR_SHARE) & (label < len(LABELS)), label, -1)
    return labels
