"""Which views make a sample, which scenes train and which are scored, and in what order.

Everything here is a pure function of scenes, config and position, so a run resumes in the middle
of an epoch by asking for the next position, whatever the number of workers or processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vega3d.pipeline.errors import UsageError
from vega3d.train.config import TrainConfig
from vega3d.train.randomness import seed_of


@dataclass(frozen=True, slots=True)
class SceneViews:
    """A scene and those of its views that may be used."""

    scene_id: str
    views: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """Views of one scene that go through a step together."""

    scene_id: str
    views: tuple[int, ...]
    epoch: int = 0
    asked: tuple[bool, ...] = ()
    """False for a view that only fills up a sample when scoring; empty is all True."""


Frames = Mapping[str, tuple[tuple[int, ...], ...]]
"""Of every scene the samples that a task over frames asks: the views of one frame each."""


@dataclass(frozen=True)
class Split:
    """What is trained on and what is scored."""

    train: tuple[SceneViews, ...]
    val: tuple[SceneViews, ...]
    kind: str
    """`scene`, or `time` where there is only one scene."""
    note: str
    """For people: what the split is, and what it cannot show."""


def split_scenes(
    num_views: dict[str, int], config: TrainConfig, *, need_views: int | None = None
) -> Split:
    """Split by scene; by time with a gap where there is only one.

    Args:
        num_views: Views of every scene, in order of time.
        config: Its `val_share`, `gap_views`, `split_seed` and `views_per_sample` count.
        need_views: Views a sample needs; the config's where left out.

    Raises:
        UsageError: There are not enough views on one of the sides.
    """
    need = config.views_per_sample if need_views is None else need_views
    usable = {name: count for name, count in num_views.items() if count >= need}
    if not usable:
        raise UsageError(
            f"no scene has {need} views, which a sample needs (the most is "
            f"{max(num_views.values(), default=0)}); lower --views-per-sample"
        )
    short = len(num_views) - len(usable)
    note = f"{short} scenes with fewer than {need} views are left out. " if short else ""
    if len(usable) == 1:
        ((scene_id, count),) = usable.items()
        return _split_by_time(scene_id, count, config, need, note)
    names = sorted(usable, key=lambda name: seed_of("split", config.split_seed, name))
    num_val = min(max(1, round(config.val_share * len(names))), len(names) - 1)
    chosen = set(names[:num_val])
    sides = [
        tuple(
            SceneViews(name, tuple(range(count)))
            for name, count in usable.items()
            if (name in chosen) == scored
        )
        for scored in (False, True)
    ]
    note += f"Split by scene: {len(sides[0])} to train, {len(sides[1])} scored."
    return Split(sides[0], sides[1], "scene", note)


def given_split(
    num_views: dict[str, int], sides: tuple[set[str], set[str]], config: TrainConfig
) -> Split:
    """Return the split that annotation files give, of the scenes with views enough."""
    train, val = (
        tuple(
            SceneViews(name, tuple(range(count)))
            for name, count in num_views.items()
            if name in side and count >= config.views_per_sample
        )
        for side in sides
    )
    if not train or not val:
        raise UsageError(
            f"of the annotations' scenes {len(train)} to train and {len(val)} to score have the "
            f"{config.views_per_sample} views that a sample needs; lower --views-per-sample"
        )
    note = f"Split as the annotation files are: {len(train)} to train, {len(val)} scored."
    return Split(train, val, "scene", note)


def _split_by_time(scene_id: str, count: int, config: TrainConfig, need: int, note: str) -> Split:
    num_val = max(need, round(config.val_share * count))
    num_train = count - num_val - config.gap_views
    if num_train < need:
        raise UsageError(
            f"{scene_id} is the only scene and has {count} views: too few for {need} to train, "
            f"{config.gap_views} left out and {num_val} to score; lower --views-per-sample, "
            "--gap-views or --val-share, or add scenes"
        )
    train = SceneViews(scene_id, tuple(range(num_train)))
    val = SceneViews(scene_id, tuple(range(count - num_val, count)))
    note += (
        f"One scene only: split by time, its first {num_train} views train, "
        f"{config.gap_views} are left out, the last {num_val} are scored. The scored views are of "
        "the same place, so the numbers say nothing about a new scene."
    )
    return Split((train,), (val,), "time", note)


class TrainOrder:
    """The endless sequence of training samples: epoch after epoch, shuffled by shard."""

    def __init__(
        self,
        scenes: Sequence[SceneViews],
        units: Sequence[Sequence[str]],
        config: TrainConfig,
        *,
        adjacent: bool,
        frames: Frames | None = None,
    ) -> None:
        """Plan it; `adjacent` keeps a sample's views next to each other in time.

        Where there are frames, they are the samples.
        """
        self._by_id = {scene.scene_id: scene for scene in scenes}
        kept = (tuple(name for name in unit if name in self._by_id) for unit in units)
        self._units = [unit for unit in kept if unit]
        self._config = config
        self._adjacent = adjacent
        self._frames = frames
        size = config.views_per_sample
        self.samples_per_epoch = sum(
            -(-len(scene.views) // size) if frames is None else len(frames.get(scene.scene_id, ()))
            for scene in scenes
        )
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def sample(self, position: int) -> Sample:
        """Return the sample at a position, from 0."""
        epoch, index = divmod(position, self.samples_per_epoch)
        return self._epoch(epoch)[index]

    def samples(self, start: int, count: int) -> list[Sample]:
        """Return the samples at positions start .. start + count - 1."""
        return [self.sample(position) for position in range(start, start + count)]

    def _make_epoch(self, epoch: int) -> list[Sample]:
        random = _generator(self._config.seed, "order", epoch)
        shuffled = [self._units[i] for i in random.permutation(len(self._units))]
        size = self._config.shards_in_flight
        ordered: list[Sample] = []
        for first in range(0, len(shuffled), size):
            block = [
                Sample(name, views, epoch)
                for unit in shuffled[first : first + size]
                for name in unit
                for views in self._windows(self._by_id[name], epoch)
            ]
            ordered += [block[i] for i in random.permutation(len(block))]
        return ordered

    def _windows(self, scene: SceneViews, epoch: int) -> list[tuple[int, ...]]:
        size, views = self._config.views_per_sample, scene.views
        random = _generator(self._config.seed, scene.scene_id, epoch)
        if self._frames is not None:
            return list(self._frames.get(scene.scene_id, ()))  # the block is shuffled anyway
        if self._adjacent:
            # A shift moves the borders, so that any two neighbours meet in some epoch.
            shift = int(random.integers(-(size - 1), size))
            starts = range(shift, shift + len(views), size)
            return [_window(views, start, size) for start in starts]
        mixed = [views[i] for i in random.permutation(len(views))]
        filled = mixed + mixed[: -len(mixed) % size]
        return [tuple(filled[i : i + size]) for i in range(0, len(filled), size)]


def scoring_samples(scenes: Sequence[SceneViews], views_per_sample: int) -> list[Sample]:
    """Return samples of neighbouring views in which every view is asked exactly once."""
    samples = []
    for scene in scenes:
        done: set[int] = set()
        for start in range(0, len(scene.views), views_per_sample):
            views = _window(scene.views, start, views_per_sample)
            asked = tuple(view not in done for view in views)
            done.update(views)
            samples.append(Sample(scene.scene_id, views, -1, asked))
    return samples


def scene_samples(scenes: Sequence[SceneViews], views_per_sample: int) -> list[Sample]:
    """Return one sample a scene, of views evenly over it: for questions about whole scenes."""
    samples = []
    for scene in scenes:
        places = np.linspace(0, len(scene.views) - 1, views_per_sample).round().astype(int)
        samples.append(Sample(scene.scene_id, tuple(scene.views[i] for i in places), -1))
    return samples


def frame_samples(scenes: Sequence[SceneViews], frames: Frames) -> list[Sample]:
    """Return every frame of the scenes once."""
    return [
        Sample(scene.scene_id, views, -1)
        for scene in scenes
        for views in frames.get(scene.scene_id, ())
    ]


def _window(views: Sequence[int], start: int, size: int) -> tuple[int, ...]:
    start = min(max(start, 0), len(views) - size)
    return tuple(views[start : start + size])


def _generator(*parts: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed_of(*parts)))
