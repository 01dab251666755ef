"""Demonstrations of a run's scenes, as chunks that a batch takes its part of.

A sample is one frame: the views that the first cameras have of it.

Letters: K actions of a chunk, A numbers of an action, P of a state, E numbers of a text's vector.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from vega3d.pipeline.backbones.text import embed_texts
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.episodes import camera_and_frame
from vega3d.train.acted import Acted
from vega3d.train.config import TrainConfig
from vega3d.train.demonstrations.bounds import Bounds
from vega3d.train.demonstrations.episode import Episode
from vega3d.train.demonstrations.reading import Demonstrations
from vega3d.train.order import Frames, Sample, split_scenes

Embed = Callable[[str, Sequence[str]], np.ndarray]


class ActionTable:
    """The chunks of a run's task `action`."""

    def __init__(
        self,
        demonstrations: Demonstrations,
        view_ids: Mapping[str, Sequence[str]],
        config: TrainConfig,
        embed: Embed = embed_texts,
        policy: Mapping[str, Any] | None = None,
    ) -> None:
        """Find the frames and their bounds, and embed the instructions or take them from the cache.

        Args:
            demonstrations: What was done.
            view_ids: Of every scene of the stores.
            config: Says how many cameras, actions and numbers there are.
            embed: Turns texts into vectors.
            policy: What a run's record keeps (`to_json`): its cameras and bounds hold for other
                demonstrations too, for the weights were trained with them.

        Raises:
            UsageError: Numbers or cameras are not as the config, or the policy, says.
        """
        self.chunk, self.offset = config.action_chunk, config.action_offset
        self.episodes = {
            scene_id: episode
            for scene_id, episode in demonstrations.by_scene.items()
            if scene_id in view_ids
        }
        _check_sizes(self.episodes, config)
        known = tuple(str(name) for name in policy["cameras"]) if policy else ()
        self.cameras, self.frames = find_frames(
            view_ids, self.episodes, config.views_per_sample, known
        )
        self._at = {
            (scene_id, views): number
            for scene_id, frames in self.frames.items()
            for number, views in frames.items()
        }
        self.names = next(iter(self.episodes.values())).action_names
        self.actions, self.states = _bounds(policy, self.episodes, view_ids, config)
        self.text_model = demonstrations.text_model
        texts = sorted({episode.text for episode in self.episodes.values()})
        vectors = embed(self.text_model, texts)
        if vectors.shape[1] != config.text_dim:
            raise UsageError(
                f"texts have {vectors.shape[1]} numbers by {self.text_model}, not "
                f"{config.text_dim}: pass --text-dim {vectors.shape[1]}"
            )
        self._text = dict(zip(texts, vectors.astype(np.float32), strict=True))

    def order(self) -> Frames:
        """Return the samples of every scene: the views of a frame each."""
        return {name: tuple(frames.values()) for name, frames in self.frames.items()}

    def asked(self, request: Sequence[Sample], seed: int) -> dict[str, Acted]:
        """Return what was done after the samples' frames."""
        del seed
        found = [self._after(sample) for sample in request]
        stacked = {
            name: torch.from_numpy(np.stack([each[name] for each in found])) for name in found[0]
        }
        return {"action": Acted(**stacked)}

    def _after(self, sample: Sample) -> dict[str, np.ndarray]:
        episode = self.episodes[sample.scene_id]
        frame = self._at[sample.scene_id, sample.views]
        first = frame + self.offset
        real = episode.actions[first : first + self.chunk]
        chunk = np.zeros((self.chunk, episode.actions.shape[1]), np.float32)
        chunk[: len(real)] = self.actions.normalised(real)
        state = episode.proprio[frame]
        return {
            "chunk": chunk,
            "there": np.arange(self.chunk) < len(real),
            "proprio": self.states.normalised(state) if self.states else state[:0],
            "text": self._text[episode.text],
        }

    def to_json(self) -> dict[str, Any]:
        """Return what a policy must know beside weights and encoders."""
        return {
            "cameras": list(self.cameras),
            "names": list(self.names),
            "actions": self.actions.to_json(),
            "states": self.states.to_json() if self.states else None,
            "text_model": self.text_model,
            "texts": sorted(self._text),
        }


def find_frames(
    view_ids: Mapping[str, Sequence[str]],
    episodes: Mapping[str, Episode],
    num_cameras: int,
    cameras: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], dict[str, dict[int, tuple[int, ...]]]]:
    """Return the first cameras, and of every scene the frames that all of them have, as views.

    Args:
        view_ids: Of every scene of the stores.
        episodes: What was done in them.
        num_cameras: How many cameras are taken, the first of the first scene.
        cameras: These, where they are known.

    Raises:
        UsageError: There are too few cameras, or no frame that all have.
    """
    frames: dict[str, dict[int, tuple[int, ...]]] = {}
    for scene_id, episode in episodes.items():
        seen: dict[str, dict[int, int]] = {}
        for index, view in enumerate(view_ids[scene_id]):
            if (found := camera_and_frame(view)) is not None:
                seen.setdefault(found[0], {})[found[1]] = index
        if len(seen) < num_cameras or (cameras and set(cameras) - set(seen)):
            raise UsageError(
                f"{scene_id} has frames of the cameras {list(seen)}, and a sample takes "
                f"{list(cameras) or num_cameras}; --views-per-sample says of how many cameras"
            )
        cameras = cameras or tuple(seen)[:num_cameras]
        first, *others = (seen[camera] for camera in cameras)
        frames[scene_id] = {
            frame: (index, *(other[frame] for other in others))
            for frame, index in sorted(first.items())
            if frame < len(episode.actions) and all(frame in other for other in others)
        }
    if not any(frames.values()):
        raise UsageError(
            f"no frame was extracted of all cameras {list(cameras)}; extract with --views 0, which "
            "keeps every frame"
        )
    return cameras, frames


def _bounds(
    policy: Mapping[str, Any] | None,
    episodes: Mapping[str, Episode],
    view_ids: Mapping[str, Sequence[str]],
    config: TrainConfig,
) -> tuple[Bounds, Bounds | None]:
    """Return a policy's own bounds of actions and states, or those of what a run trains on."""
    if policy:
        states = policy["states"]
        return Bounds.from_json(policy["actions"]), Bounds.from_json(states) if states else None
    sides = split_scenes({name: len(views) for name, views in view_ids.items()}, config)
    names = [scene.scene_id for scene in sides.train]
    trained = [episodes[name] for name in names if name in episodes]
    if not trained:
        raise UsageError(
            f"none of the {len(names)} scenes to train has actions; choose another --split-seed"
        )
    actions = Bounds.of([episode.actions for episode in trained], commands=True)
    if not config.proprio_dim:
        return actions, None
    return actions, Bounds.of([episode.proprio for episode in trained], commands=False)


def _check_sizes(episodes: Mapping[str, Episode], config: TrainConfig) -> None:
    if not episodes:
        raise UsageError("no scene of the stores has actions")
    some = next(iter(episodes.values()))
    for what, option, found, told in (
        ("actions", "--action-dim", some.actions.shape[1], config.action_dim),
        ("states", "--proprio-dim", some.proprio.shape[1], config.proprio_dim),
    ):
        if found != told and (option == "--action-dim" or told):
            raise UsageError(
                f"{what} of the demonstrations have {found} numbers, not {told}: pass {option} "
                f"{found}"
            )
