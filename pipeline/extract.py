"""The main job, told by one function: posed scenes in, features in a sharded Zarr store out."""

import logging
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.batch_size import with_batch_size
from vega3d.pipeline.changes import SourceChanges, find_changes
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.prepared import PreparedModel, prepare_model
from vega3d.pipeline.remarks import remarks_on
from vega3d.pipeline.results import UnitResult, unit_result
from vega3d.pipeline.runners import Runner
from vega3d.pipeline.scenes.scene import SceneSource
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.record import Record, SceneRecord, unpack_matrices
from vega3d.pipeline.store.store import Store, stored_attributes
from vega3d.pipeline.store.units import Plan, Unit
from vega3d.pipeline.store.writer import StoreWriter, to_supersede, uncommitted
from vega3d.pipeline.worker import UnitWriter

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """How a run ended; the last line on stdout is this as JSON."""

    store: str
    digest: str
    scenes: int
    committed: int
    failures: Mapping[str, str]
    pending: int
    postponed: Mapping[str, str]
    """Of the pending scenes, those whose disk or server did not answer, and what was told."""

    views: int
    dropped_views: int
    stored_bytes: int
    units: int
    units_this_run: int
    """That this run did, and no other job."""

    wall_s: float
    seconds: Mapping[str, float]
    """Summed over this run's units: decode, compute, store."""

    taps: Sequence[str]
    views_with_depth: int | None
    """None where scenes are there of which an older vega3d did not note it."""

    views_with_pose: int
    repeated_views: int
    """Of the dropped ones, those that repeat a view before them."""

    reprojection_m: float | None
    """Median over the scenes of the distance of depths between neighbouring views."""

    scene_reprojection_m: Mapping[str, float]
    """That of each scene where it could be measured."""

    misread: Mapping[str, Sequence[str]]
    """Scenes whose geometry does not prove itself, with what would mend it."""

    changed: Mapping[str, str]
    """Committed scenes whose source is another one now, and what of it; see `changes`."""

    unwatched: int
    """Committed scenes of which nothing says how their source looked."""

    figures: Mapping[str, Any] = field(default_factory=dict)
    """Of this run: throughput over time, stage shares, failures by reason, slowest units,
    efficiency, what was done twice; see `figures.py`."""


def extract(
    source: SceneSource,
    out: str,
    config: ExtractConfig,
    *,
    numerics: Numerics,
    run: Runner,
    retry_failed: bool = False,
    refresh: bool = False,
    prompt_embeds: str = "",
    gpu_share: float = 1.0,
    on_result: Callable[[UnitResult, Sequence[Unit]], None] = lambda _result, _units: None,
) -> Summary:
    """Write the features of every scene to the store at `out`; run again to resume.

    Args:
        source: Where the scenes are.
        out: Folder or URL of the store; made if it is not there.
        config: What decides the stored bytes.
        numerics: What changes their last bits; a store that is there keeps its own.
        run: How units are handed out: `run_inline`, or the one of `vega3d.cluster`.
        retry_failed: Also compute the scenes that failed; the others of their units are kept.
        refresh: Also compute the scenes whose source has changed; the others are kept.
        prompt_embeds: A safetensors file of the empty prompt's embedding; "" encodes it with the
            model's text encoder, once.
        gpu_share: Part of a GPU that a worker has, where a batch size is searched.
        on_result: Called after each unit, with all units of this run, to show progress.

    Raises:
        ValueError: No scenes, ids that repeat, or (CheckpointError, StoreError) a model or store
            that does not fit.
    """
    started = time.monotonic()
    plan, model, store = open_for(source, out, config, numerics, prompt_embeds, gpu_share)
    changes = find_changes(source, store.url, model.config, thorough=refresh)
    changes.tell(out)
    units = find_units(store, plan, retry_failed, changes.changed if refresh else ())
    tally = Tally()
    for result in run(UnitWriter(source, model, store), units):
        tally.add(result)
        tell_remarks(result)
        on_result(result, units)
    records = merge_commits(store)
    return summarize(out, plan, records, tally, changes, time.monotonic() - started)


@dataclass
class Tally:
    """What a run did so far, in little memory."""

    units: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    postponed: dict[str, str] = field(default_factory=dict)

    def add(self, result: UnitResult) -> None:
        """Take a finished unit."""
        self.units += not (result.by_others or result.postponed)
        self.seconds.update(result.seconds)
        self.postponed.update(dict.fromkeys(result.left, result.postponed))


def open_for(
    source: SceneSource,
    out: str,
    config: ExtractConfig,
    numerics: Numerics,
    prompt_embeds: str,
    gpu_share: float = 1.0,
) -> tuple[Plan, PreparedModel, StoreWriter]:
    """Return what a store is planned to hold, its model looked at, and the store, made or resumed.

    Args:
        source: Where the scenes are.
        out: Folder or URL of the store.
        config: What decides the stored bytes.
        numerics: What changes their last bits; a store that is there keeps its own.
        prompt_embeds: A safetensors file of the empty prompt's embedding, or "".
        gpu_share: Part of a GPU that a worker has, where a batch size is searched.
    """
    plan = plan_units(
        source.entries(), num_views=config.num_views, scenes_per_shard=config.scenes_per_shard
    )
    model = prepare_model(config, prompt_embeds)
    for remark in remarks_on(model.identity["config"]):
        _log.warning("%s: %s", out, remark)
    if stored_attributes(out) is None:
        numerics = with_batch_size(numerics, model, gpu_share)
    store = create_or_resume(out, plan, model.identity, numerics.stored())
    if store.numerics != numerics.stored():
        _log.info("%s keeps the numerics it was made with: %s", out, store.numerics)
    return plan, model, store


def find_units(
    store: StoreWriter, plan: Plan, retry_failed: bool, changed: Collection[str] = ()
) -> list[Unit]:
    """Return the units that a run is to do, in order."""
    units = uncommitted(store, plan)
    if retry_failed or changed:
        units += to_supersede(store, plan, failed=retry_failed, scenes=changed)
    return sorted(units, key=lambda unit: unit.index)


def tell_remarks(result: UnitResult) -> None:
    """Say what a person should know of a unit's scenes, wherever they were read."""
    for scene_id, lines in result.remarks.items():
        for line in lines:
            _log.warning("%s: %s", scene_id, line)


def summarize(
    out: str,
    plan: Plan,
    records: Mapping[int, Record],
    tally: Tally,
    changes: SourceChanges,
    wall_s: float,
) -> Summary:
    """Return what the store holds now and what this run did."""
    store = Store.open(out)
    scenes = [scene for record in records.values() for scene in record.scenes if not scene.failure]
    notes = store.notes()
    errors = {name: note.reprojection_m for name, note in notes.items()
              if note.reprojection_m is not None}  # fmt: skip
    totals = [unit_result(record, {}) for record in records.values()]
    return Summary(
        store=out,
        digest=store.digest(),
        scenes=len(plan.scenes),
        committed=len(store.scene_ids),
        failures=store.failures,
        pending=len(store.pending),
        postponed=tally.postponed,
        views=sum(total.views for total in totals),
        dropped_views=sum(total.dropped_views for total in totals),
        stored_bytes=sum(total.stored_bytes for total in totals),
        units=len(plan.units),
        units_this_run=tally.units,
        wall_s=wall_s,
        seconds=dict(sorted(tally.seconds.items())),
        taps=store.taps,
        views_with_depth=sum(note.views_with_depth for note in notes.values())
        if len(notes) == len(scenes)
        else None,
        views_with_pose=sum(map(_poses_of, scenes)),
        repeated_views=sum(scene.repeated_views for scene in scenes),
        reprojection_m=statistics.median(errors.values()) if errors else None,
        scene_reprojection_m=errors,
        misread={name: note.misread for name, note in notes.items() if note.misread},
        changed=changes.left(store),
        unwatched=len(changes.unwatched),
    )


def _poses_of(scene: SceneRecord) -> int:
    """Count the views whose pose is known."""
    poses = unpack_matrices(scene.world_from_camera, len(scene.view_ids), 4)
    return int(np.isfinite(poses).all(axis=(1, 2)).sum())
