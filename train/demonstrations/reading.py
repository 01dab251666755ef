"""Demonstrations of a location, and those of the scenes that stores have."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vega3d.pipeline.errors import SceneError, UsageError
from vega3d.pipeline.scenes.captures import Captures
from vega3d.pipeline.scenes.lerobot import LeRobot
from vega3d.pipeline.scenes.libero import Libero
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.train.demonstrations.episode import Episode
from vega3d.train.demonstrations.lerobot import LeRobotActions
from vega3d.train.demonstrations.libero import read_episode

_SHOWN = 3


@dataclass(frozen=True)
class Demonstrations:
    """What was done in the scenes of stores."""

    by_scene: dict[str, Episode]
    """By the store's scene id."""

    files: tuple[str, ...]
    text_model: str
    notes: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Return what they are known by: numbers, texts and the texts' encoder."""
        digest = hashlib.sha256(self.text_model.encode())
        for scene_id, episode in self.by_scene.items():
            digest.update(f"\0{scene_id}\0{episode.text}\0".encode())
            digest.update(episode.actions.tobytes() + episode.proprio.tobytes())
        return digest.hexdigest()


def read_demonstrations(
    locations: Sequence[str], text_model: str, scene_ids: Sequence[str]
) -> Demonstrations:
    """Read what was done in the episodes of some locations, and join it with stores' scenes.

    A scene is the same where its id is, or ends with the other's after a slash: a folder may be
    named from nearer by.

    Raises:
        UsageError: A location has no demonstrations, or none of them is of the scenes.
    """
    episodes = {one.scene_id: one for location in locations for one in _episodes(location)}
    found: dict[str, Episode] = {}
    for scene_id in scene_ids:
        if (episode := _match(scene_id, episodes)) is not None:
            found[scene_id] = episode
    if not found:
        raise UsageError(
            f"none of the {len(episodes)} demonstrations, such as {sorted(episodes)[:_SHOWN]}, is "
            f"of a scene of the stores, such as {sorted(scene_ids)[:_SHOWN]}; give the location "
            "that the stores were extracted from"
        )
    _check_alike(found)
    notes = []
    if idle := [name for name in scene_ids if name not in found]:
        notes.append(f"{len(idle)} scenes have no actions, such as {idle[:_SHOWN]}")
    if lacking := len(episodes) - len(found):
        notes.append(f"{lacking} of {len(episodes)} demonstrations are of no scene of the stores")
    return Demonstrations(found, tuple(locations), text_model, tuple(notes))


def _episodes(location: str) -> Iterable[Episode]:
    try:
        source = read_scenes(location)
        placed = source.placed() if isinstance(source, Captures) else []
    except ValueError as error:
        raise UsageError(str(error)) from error
    datasets: dict[str, LeRobotActions] = {}
    episodes = []
    for scene_id, layout, place in placed:
        try:
            if isinstance(layout, Libero) and place.num_views:
                episodes.append(read_episode(place, scene_id))
            elif isinstance(layout, LeRobot) and place.num_views:
                if place.path not in datasets:
                    datasets[place.path] = LeRobotActions(place.path)
                episodes.append(datasets[place.path].episode(int(place.part), scene_id))
        except (SceneError, OSError) as error:
            raise UsageError(str(error)) from error
    if not episodes:
        raise UsageError(
            f"{location}: has no demonstrations; actions are read from LIBERO's HDF5 files and "
            "LeRobot v3 datasets"
        )
    return episodes


def _match(scene_id: str, episodes: dict[str, Episode]) -> Episode | None:
    if scene_id in episodes:
        return episodes[scene_id]
    alike = [
        episode
        for name, episode in episodes.items()
        if name.endswith(f"/{scene_id}") or scene_id.endswith(f"/{name}")
    ]
    if len(alike) > 1:
        raise UsageError(
            f"{scene_id} may be {alike[0].scene_id} or {alike[1].scene_id}; give the location that "
            "the stores were extracted from"
        )
    return alike[0] if alike else None


def _check_alike(found: dict[str, Episode]) -> None:
    sizes = {
        (episode.actions.shape[1], episode.proprio.shape[1]): scene_id
        for scene_id, episode in found.items()
    }
    if len(sizes) > 1:
        told = "; ".join(f"{a} and {p} in {scene}" for (a, p), scene in list(sizes.items())[:2])
        raise UsageError(f"actions and states must have as many numbers everywhere, got {told}")
