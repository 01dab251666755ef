"""A prior and a semantic store, aligned by scene, view and token, and their geometry."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from vega3d.pipeline.backbones.text import WORDS
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.remarks import remarks_on
from vega3d.pipeline.store.store import JoinedStore, Store, open_store
from vega3d.train.acting import ActionTable
from vega3d.train.config import TrainConfig
from vega3d.train.demonstrations.reading import Demonstrations, read_demonstrations
from vega3d.train.geometry import Geometry, GeometryTable
from vega3d.train.questions import Questions, QuestionTable, read_questions
from vega3d.train.tasks.registry import task_class

AnyStore = Store | JoinedStore
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairing:
    """Two stores that look at the same tokens; a third may hold their labels."""

    prior: AnyStore
    semantic: AnyStore
    prior_tap: str
    semantic_tap: str
    scene_ids: tuple[str, ...]
    """In both stores (and in the label store), in the prior's order."""
    labels: AnyStore | None = None
    notes: tuple[str, ...] = ()
    """What was left out, for people to read."""
    questions: Questions | None = None
    """What annotation files ask about the scenes."""
    demonstrations: Demonstrations | None = None
    """What robots did in the scenes."""
    policy: Mapping[str, Any] | None = None
    """What a run's record keeps of its cameras and bounds, where it goes on or is scored."""
    _tables: dict[float, GeometryTable] = field(default_factory=dict, init=False, repr=False)
    _question_tables: dict[TrainConfig, QuestionTable] = field(
        default_factory=dict, init=False, repr=False
    )
    _action_tables: dict[TrainConfig, ActionTable] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a view's tokens."""
        return self.prior.grid

    @cached_property
    def units(self) -> tuple[tuple[str, ...], ...]:
        """The shared scenes of every shard of the prior: what is read and shuffled together."""
        shared = set(self.scene_ids)
        units = (tuple(name for name in unit if name in shared) for unit in self.prior.units)
        return tuple(unit for unit in units if unit)

    def geometry(self, scene_id: str, min_depth_share: float) -> Geometry:
        """Read a scene's geometry; tokens with less of their pixels measured have no depth."""
        return _read_geometry(self, scene_id, min_depth_share)

    def table(self, min_depth_share: float) -> GeometryTable:
        """Return the geometry of all scenes, the same table for all who ask."""
        if min_depth_share not in self._tables:
            num_views = {name: len(self.prior.view_ids(name)) for name in self.scene_ids}
            read = partial(self.geometry, min_depth_share=min_depth_share)
            self._tables[min_depth_share] = GeometryTable(num_views, read)
        return self._tables[min_depth_share]

    def question_table(self, config: TrainConfig) -> QuestionTable | None:
        """Return what a config's tasks ask, one table for all who ask; None where none does.

        Raises:
            UsageError: A task asks questions and there are none.
        """
        asking = [name for name in config.tasks if task_class(name).asks_scenes]
        if not asking:
            return None
        if self.questions is None:
            raise UsageError(
                f"{', '.join(asking)} ask what annotation files ask: pass --questions FILE"
            )
        if config not in self._question_tables:
            self._question_tables[config] = QuestionTable(self.questions, config)
        return self._question_tables[config]

    def action_table(self, config: TrainConfig) -> ActionTable | None:
        """Return what a config's tasks ask of frames, one table for all; None where none does.

        Raises:
            UsageError: A task asks of frames and there are no demonstrations.
        """
        if not any(task_class(name).asks_frames for name in config.tasks):
            return None
        if self.demonstrations is None:
            raise UsageError("action asks what demonstrations did: pass --actions LOCATION")
        if config not in self._action_tables:
            view_ids = {name: self.prior.view_ids(name) for name in self.scene_ids}
            self._action_tables[config] = ActionTable(
                self.demonstrations, view_ids, config, policy=self.policy
            )
        return self._action_tables[config]

    def asks(self, config: TrainConfig) -> QuestionTable | ActionTable | None:
        """Return what batches hold beside tokens and geometry."""
        return self.action_table(config) or self.question_table(config)


def pair_stores(
    prior: str | Sequence[str],
    semantic: str | Sequence[str],
    *,
    prior_tap: str | None = None,
    semantic_tap: str | None = None,
    labels: str | Sequence[str] | None = None,
    questions: Sequence[str] | None = None,
    actions: Sequence[str] | None = None,
    text_model: str | None = None,
    allow_partial: bool = False,
) -> Pairing:
    """Open two stores and check that their tokens are of the same scenes, views and cells.

    Raises:
        UsageError: They are not, or one is not finished and `allow_partial` is False.
    """
    first, second = open_store(prior), open_store(semantic)
    third = None if labels is None else open_store(labels)
    taps = _tap(first, prior_tap, "--prior-tap"), _tap(second, semantic_tap, "--semantic-tap")
    stores = {"prior": first, "semantic": second} | ({"label": third} if third else {})
    notes = [note for name, store in stores.items() for note in _unfinished(name, store)]
    if notes and not allow_partial:
        raise UsageError(
            f"{'; '.join(notes)}. Finish with the same `vega3d-extract run` command, or pass "
            "--allow-partial to train on what is committed"
        )
    shared = _shared_scenes(stores)
    notes += [
        f"{len(extra)} scenes are in the {name} store alone, such as {sorted(extra)[:3]}"
        for name, store in stores.items()
        if (extra := set(store.scene_ids) - set(shared))
    ]
    notes += [
        f"{name} store: {remark}"
        for name, store in stores.items()
        for remark in remarks_on(store.identity["config"])
    ]
    notes += _misread(first, shared)
    for name, store in stores.items():
        _check_aligned(first, store, name, shared)
    if third is not None and third.num_channels(_tap(third, None, "--labels")) != 1:
        raise UsageError("a label store has one channel, the class of a token (NaN for none)")
    asked = read_questions(questions, text_model or WORDS, shared) if questions else None
    notes += asked.notes if asked else ()
    done = read_demonstrations(actions, text_model or WORDS, shared) if actions else None
    notes += done.notes if done else ()
    for note in notes:
        _log.warning("%s", note)
    return Pairing(first, second, *taps, shared, third, tuple(notes), asked, done)


def parts(store: AnyStore) -> tuple[Store, ...]:
    """Return the stores that are read as one; a single store is its own part."""
    return (store,) if isinstance(store, Store) else store.stores


def _tap(store: AnyStore, tap: str | None, option: str) -> str:
    if tap is None and len(store.taps) == 1:
        return str(store.taps[0])
    if tap not in store.taps:
        asked = "several taps" if tap is None else f"no tap {tap!r}"
        raise UsageError(f"{_place(store)} has {asked}; give {option} one of {list(store.taps)}")
    return str(tap)


def _unfinished(name: str, store: AnyStore) -> list[str]:
    if not store.pending:
        return []
    done = len(store.scene_ids) + len(store.failures)
    return [
        f"the {name} store {_place(store)} is half-extracted: {done} of "
        f"{done + len(store.pending)} scenes are committed"
    ]


def _misread(prior: AnyStore, scene_ids: Sequence[str]) -> list[str]:
    """Say which scenes' positions are wrong: depths of neighbouring views lie apart there."""
    notes = prior.notes()
    misread = {name: notes[name].misread for name in scene_ids if name in notes}
    misread = {name: reasons for name, reasons in misread.items() if reasons}
    if not misread:
        return []
    name, reasons = next(iter(misread.items()))
    return [
        f"{len(misread)} of {len(scene_ids)} scenes are read wrongly, such as {name} "
        f"({'; '.join(reasons)}): depth, positions and matches of them are not true"
    ]


def _shared_scenes(stores: dict[str, AnyStore]) -> tuple[str, ...]:
    first, *others = stores.values()
    sets = [set(store.scene_ids) for store in others]
    shared = tuple(name for name in first.scene_ids if all(name in names for names in sets))
    if not shared:
        held = "; ".join(
            f"{name} has {len(store.scene_ids)}, such as {list(store.scene_ids[:3])}"
            for name, store in stores.items()
        )
        raise UsageError(f"the stores share no scene: {held}. Extract both from the same SCENES")
    return shared


def _check_aligned(prior: AnyStore, other: AnyStore, name: str, scene_ids: tuple[str, ...]) -> None:
    if other.grid != prior.grid:
        raise UsageError(
            f"the {name} store has {other.grid} tokens a view, the prior {prior.grid}; "
            "extract both with the same --grid"
        )
    for scene_id in scene_ids:
        ours, theirs = prior.view_ids(scene_id), other.view_ids(scene_id)
        if ours != theirs:
            raise UsageError(
                f"{scene_id} has other views in the {name} store: {_short(theirs)} there, "
                f"{_short(ours)} in the prior; extract both with the same --views and --sampling"
            )
        pixels = {prior.pixels_sha256(scene_id), other.pixels_sha256(scene_id)} - {""}
        if len(pixels) > 1:
            raise UsageError(
                f"{scene_id} was extracted from other pixels in the {name} store than in the "
                "prior: the scene's files changed in between; extract one of them again"
            )


def _read_geometry(pairing: Pairing, scene_id: str, min_depth_share: float) -> Geometry:
    prior, semantic = pairing.prior, pairing.semantic
    num_views = len(prior.view_ids(scene_id))
    shape = (num_views, -1)
    valid = (prior.coverage(scene_id) > 0) & (semantic.coverage(scene_id) > 0)
    poses = prior.world_from_camera(scene_id)
    world = prior.world_xyz(scene_id).reshape(num_views, -1, 3).astype(np.float64)
    camera = _to_cameras(world, poses)
    known = np.isfinite(camera).all(axis=-1)  # NaN poses and NaN positions both end here
    share = prior.depth_share(scene_id).reshape(shape)
    has_depth = valid.reshape(shape) & known & (share >= min_depth_share)
    labels = None
    if pairing.labels is not None:
        raw = pairing.labels.features(scene_id).reshape(shape)
        labels = np.where(np.isfinite(raw), raw, -1).astype(np.int64)
    return Geometry(
        valid=valid.reshape(shape),
        has_depth=has_depth,
        xyz_world=np.where(has_depth[..., None], world, np.nan).astype(np.float32),
        xyz_camera=np.where(has_depth[..., None], camera, np.nan).astype(np.float32),
        world_from_camera=poses.astype(np.float32),
        labels=labels,
    )


def _to_cameras(world: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Return R^T (x - t) for every view; no inverse, so that a NaN pose gives NaN."""
    rotation, translation = poses[:, :3, :3], poses[:, None, :3, 3]
    return np.asarray((world - translation) @ rotation)


def _place(store: AnyStore) -> str:
    return ", ".join(part.url for part in parts(store))


def _short(view_ids: Sequence[str]) -> str:
    return f"{len(view_ids)} views {list(view_ids[:4])}"
