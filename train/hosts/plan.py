"""What a run with a host asks of whom: pure, and a function of a step's number alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from vega3d.pipeline.backbones.text import WORDS
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.store.store import JoinedStore, Store
from vega3d.train.annotations.item import Item
from vega3d.train.config import TrainConfig
from vega3d.train.hosts.config import HostConfig, HostSources, to_plain
from vega3d.train.hosts.prompts import can_ask
from vega3d.train.order import split_scenes
from vega3d.train.questions import Questions, read_questions
from vega3d.train.randomness import seed_of


@dataclass(frozen=True)
class HostPlan:
    """Everything about a run that is known before its first step, but the host."""

    config: HostConfig
    store: Store | JoinedStore
    tap: str
    training: tuple[tuple[str, Item], ...]
    """Scene ids of the store with a question each."""

    scored: tuple[tuple[str, Item], ...]
    notes: tuple[str, ...]
    questions_digest: str

    def identity(self) -> dict[str, Any]:
        """Return all that decides the numbers, but the host."""
        return {
            "train": to_plain(self.config),
            "stores": {"prior": {"tap": self.tap, "digest": self.store.digest()}},
            "questions": self.questions_digest,
        }

    def asked(self, step: int, rank: int, count: int) -> list[tuple[str, Item, int]]:
        """Return this process's questions of a step, and how often each was asked before."""
        size = self.config.batch_size // count
        first = step * self.config.batch_size + rank * size
        found = []
        for position in range(first, first + size):
            turn, place = divmod(position, len(self.training))
            scene_id, item = self.training[self._order(turn)[place]]
            found.append((scene_id, item, turn))
        return found

    def _order(self, turn: int) -> Sequence[int]:
        return _permutation(self.config.seed, turn, len(self.training))


def plan_host(store: Store | JoinedStore, sources: HostSources, config: HostConfig) -> HostPlan:
    """Join the questions with the store, and share them into training and scoring.

    Raises:
        UsageError: A file is malformed, the store has none of its scenes, or a side is empty.
    """
    if sources.prior_tap is None and len(store.taps) > 1:
        raise UsageError(f"the store has several taps; give --prior-tap one of {list(store.taps)}")
    tap = sources.prior_tap or str(store.taps[0])
    questions = read_questions(sources.questions, WORDS, store.scene_ids)
    wanted = {
        scene_id: [item for item in items if item.benchmark in config.benchmarks and can_ask(item)]
        for scene_id, items in questions.by_scene.items()
    }
    by_scene = {scene_id: items for scene_id, items in wanted.items() if items}
    if not by_scene:
        raise UsageError(f"the files have no question of {', '.join(config.benchmarks)}")
    train, val = _sides(questions, by_scene, config)
    training = tuple(
        (name, item) for name in by_scene if name in train for item in _taught(by_scene[name])
    )
    every = [(name, item) for name in by_scene if name in val for item in by_scene[name]]
    left = sum(map(len, questions.by_scene.values())) - sum(map(len, by_scene.values()))
    notes = [*questions.notes, f"{len(train)} scenes to train, {len(val)} scored"]
    notes += [f"{left} records are left out: other benchmarks, or nothing to point at"] * bool(left)
    return HostPlan(
        config=config,
        store=store,
        tap=tap,
        training=training,
        scored=tuple(_thinned(every, config.scored_questions)),
        notes=tuple(notes),
        questions_digest=questions.digest,
    )


def _taught(items: list[Item]) -> list[Item]:
    """Leave out what is for scoring of a scene that the files give to both sides."""
    return [item for item in items if item.split in ("train", "")] or items


def _sides(
    questions: Questions, by_scene: dict[str, list[Item]], config: HostConfig
) -> tuple[set[str], set[str]]:
    """Return the scenes of either side: as the files' names say, else by `val_share`."""
    asked = replace(questions, by_scene=by_scene)
    if (given := asked.split()) is not None:
        return given
    if len(by_scene) < 2:
        raise UsageError(
            f"the questions are about {len(by_scene)} scene: one to train and one to score are "
            "needed at least"
        )
    shares = TrainConfig(
        val_share=config.val_share, split_seed=config.split_seed, views_per_sample=1
    )
    split = split_scenes(dict.fromkeys(by_scene, 1), shares)
    return {s.scene_id for s in split.train}, {s.scene_id for s in split.val}


def _thinned(items: Sequence[tuple[str, Item]], most: int) -> list[tuple[str, Item]]:
    """Return at most so many of every benchmark, evenly over them; 0 keeps all."""
    kept: list[tuple[str, Item]] = []
    for name in dict.fromkeys(item.benchmark for _, item in items):
        mine = [(scene_id, item) for scene_id, item in items if item.benchmark == name]
        places = np.linspace(0, len(mine) - 1, min(most or len(mine), len(mine)))
        kept += [mine[place] for place in places.round().astype(int)]
    return kept


@lru_cache(maxsize=2)
def _permutation(seed: int, turn: int, count: int) -> tuple[int, ...]:
    random = np.random.Generator(np.random.Philox(seed_of("host questions", seed, turn)))
    return tuple(random.permutation(count).tolist())
