"""Several encoders in one pass: each scene is read and decoded once, and each has its own store.

The stores are planned alike and stay independent: each has its own config, digest, units and
commits, and could have been written by a run of its own. What goes wrong with one of them leaves
that store's unit to a later run and the others as they are.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.sharing import sharing
from vega3d.pipeline.changes import find_changes
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import TransientError, UsageError
from vega3d.pipeline.extract import (
    Summary,
    Tally,
    find_units,
    open_for,
    summarize,
    tell_remarks,
)
from vega3d.pipeline.next_unit import NextUnit
from vega3d.pipeline.prepared import PreparedModel
from vega3d.pipeline.results import ComputedUnit, UnitResult, postponed, unit_result
from vega3d.pipeline.runners import Runner
from vega3d.pipeline.scenes.scene import SceneSource
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.units import Plan, Unit
from vega3d.pipeline.store.writer import StoreWriter
from vega3d.pipeline.texts import without_secrets
from vega3d.pipeline.worker import UnitWriter

if TYPE_CHECKING:
    from vega3d.pipeline.reading_ahead import UnitReading

_log = logging.getLogger(__name__)

_READ_BY = (
    "num_views",
    "sampling",
    "bad_views",
    "poses",
    "depth_scale",
    "jpeg",
    "scenes_per_shard",
)
"""Settings that decide what is read of a scene, and which scenes make a unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorePlan:
    """One store of a pass."""

    out: str
    """Folder or URL."""

    config: ExtractConfig
    prompt_embeds: str = ""


def extract_together(
    source: SceneSource,
    plans: Sequence[StorePlan],
    *,
    numerics: Numerics,
    run: Runner,
    retry_failed: bool = False,
    refresh: bool = False,
    gpu_share: float = 1.0,
    on_result: Callable[[UnitResult, Sequence[Unit]], None] = lambda _result, _units: None,
) -> list[Summary]:
    """Write the features of every scene to each store; run again to resume those that lack some.

    Args:
        source: Where the scenes are.
        plans: The stores; what is read of a scene must be the same for all.
        numerics: What changes the last bits; a store that is there keeps its own.
        run: How units are handed out.
        retry_failed: Also compute the scenes that failed, in each store its own.
        refresh: Also compute the scenes whose source has changed, in each store its own.
        gpu_share: Part of a GPU that a worker has, which its encoders share.
        on_result: Called after each unit; the result's `parts` say what became of it in each store.

    Raises:
        ValueError: As of `extract`; or the stores' settings read different things.
    """
    started = time.monotonic()
    check_alike([plan.config for plan in plans])
    writers, todo, changes = {}, {}, {}
    for plan in plans:
        share = gpu_share / len(plans)
        rows, model, store = open_for(
            source, plan.out, plan.config, numerics, plan.prompt_embeds, share
        )
        writers[store.url] = UnitWriter(source, model, store)
        found = find_changes(source, store.url, model.config, thorough=refresh)
        found.tell(plan.out)
        units = find_units(store, rows, retry_failed, found.changed if refresh else ())
        todo[store.url] = {unit.index: unit for unit in units}
        changes[store.url] = found
    units = _shared(rows, todo.values())
    tallies = {out: Tally() for out in writers}
    for result in run(TogetherWriter(source, writers, todo), units):
        for out, writer in writers.items():
            if result.unit in todo[out]:
                tallies[out].add(_of_store(result, writer, todo[out]))
        tell_remarks(result)
        on_result(result, units)
    wall_s = time.monotonic() - started
    summaries = []
    for out, writer in writers.items():
        records = merge_commits(writer.store)
        summaries.append(summarize(out, rows, records, tallies[out], changes[out], wall_s))
    return summaries


def check_alike(configs: Sequence[ExtractConfig]) -> None:
    """Refuse configs that would read other views or pixels, or put other scenes into a unit."""
    for name in _READ_BY:
        if len(found := {getattr(config, name) for config in configs}) > 1:
            raise UsageError(
                f"stores of one pass must read alike, but {name} is {sorted(map(str, found))}; "
                "run them one after the other"
            )
    if len(configs) > 1 and configs[0].jpeg == "scaled":
        raise UsageError(
            "stores of one pass must read alike, but --jpeg scaled is by what each encoder takes; "
            "run them one after the other"
        )


def _shared(rows: Plan, todo: Iterable[Mapping[int, Unit]]) -> list[Unit]:
    """Return each unit that a store still needs, keeping only the scenes that all have."""
    found = []
    for planned in rows.units:
        wanted = [units[planned.index] for units in todo if planned.index in units]
        if wanted:
            kept = frozenset.intersection(*(unit.kept for unit in wanted))
            found.append(replace(planned, kept=kept))
    return found


def _of_store(result: UnitResult, writer: UnitWriter, todo: Mapping[int, Unit]) -> UnitResult:
    """Return what became of a unit in one store."""
    if writer.store.url in result.parts:
        return result.parts[writer.store.url]
    record = writer.store.committed(todo[result.unit])  # by a try that ended at another store
    return result if record is None else unit_result(record, {})


@dataclass(slots=True)
class _Part:
    """A unit as one store has it."""

    unit: Unit
    computed: ComputedUnit = field(default_factory=ComputedUnit)
    error: str = ""
    """Why it is left to a later run."""


@dataclass
class TogetherWriter:
    """Turns units into committed shards of several stores; picklable, as `UnitWriter` is."""

    source: SceneSource
    writers: Mapping[str, UnitWriter]
    todo: Mapping[str, Mapping[int, Unit]]
    """The units that each store needs, by index."""

    def __call__(self, unit: Unit, limit_s: float = math.inf) -> UnitResult:
        """Compute a unit and commit it."""
        return self.commit(unit, self.compute(unit, limit_s=limit_s))

    @property
    def stores(self) -> tuple[StoreWriter, ...]:
        """Where it writes."""
        return tuple(writer.store for writer in self.writers.values())

    @property
    def models(self) -> tuple[PreparedModel, ...]:
        """What it runs."""
        return tuple(writer.model for writer in self.writers.values())

    def prepare(self) -> None:
        """Load the encoders, as the first unit would."""
        for writer in self.writers.values():
            writer.prepare()

    def compute(
        self,
        unit: Unit,
        beat: Callable[[], None] = lambda: None,
        computing: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - does nothing
        limit_s: float = math.inf,
        next_unit: NextUnit | None = None,
    ) -> dict[str, _Part]:
        """Decode the scenes of a unit once, and encode them for each store that needs them.

        Raises:
            TransientError: A disk or a server does not answer, or a scene is not read in time.
        """
        from vega3d.pipeline.features import DecodedScene
        from vega3d.pipeline.taking import Known

        parts = self._parts(unit)
        reading = next_unit.taken(unit) if next_unit else self.read(unit, beat, limit_s)
        for read in reading.scenes(next_unit.begin if next_unit else lambda: None):
            known: Known = {}
            with sharing():
                for out, part in parts.items():
                    if part.error or read.scene.scene_id not in part.unit.todo:
                        continue
                    with computing:
                        beat()
                        try:
                            self.writers[out].add(read, part.computed, known)
                        except TransientError:
                            raise
                        except Exception as error:
                            part.error = _told(out, unit, error)
                    beat()
            if isinstance(read.scene, DecodedScene):
                read.scene.seen.wait()  # a bug there is no encoder's: it stops the run
        return parts

    def read(
        self, unit: Unit, beat: Callable[[], None] = lambda: None, limit_s: float = math.inf
    ) -> "UnitReading":
        """Begin to read the scenes of a unit that a store still needs."""
        from vega3d.pipeline.reading_ahead import UnitReading

        wanted = {name for part in self._parts(unit).values() for name in part.unit.todo}
        names = [name for name in unit.todo if name in wanted]
        config = next(iter(self.writers.values())).model.config
        return UnitReading(self.source, names, config, limit_s=limit_s, beat=beat)

    def commit(self, unit: Unit, computed: Mapping[str, _Part]) -> UnitResult:
        """Write a computed unit to each store, and its commit record.

        Raises:
            TransientError: A store's place does not answer; the others are written.
        """
        found: dict[str, UnitResult] = {}
        away: TransientError | None = None
        for out, part in computed.items():
            if not part.error:
                try:
                    found[out] = self.writers[out].commit(part.unit, part.computed)
                except TransientError as error:
                    away = error
                except Exception as error:
                    part.error = _told(out, unit, error)
            if part.error:
                found[out] = postponed(part.unit, part.error)
        if away is not None:
            raise away
        return self._joined(unit, found)

    def give_up(self, unit: Unit, reason: str) -> UnitResult:
        """Record the scenes of a unit that no worker could finish as failed with this reason."""
        found = {
            out: self.writers[out].give_up(part.unit, reason)
            for out, part in self._parts(unit).items()
        }
        return self._joined(unit, found)

    def _parts(self, unit: Unit) -> dict[str, _Part]:
        """Return the unit as each store has it that needs it and has not got it by another try."""
        return {
            out: _Part(units[unit.index])
            for out, units in self.todo.items()
            if unit.index in units and self.writers[out].store.committed(units[unit.index]) is None
        }

    def _joined(self, unit: Unit, found: Mapping[str, UnitResult]) -> UnitResult:
        """Return a unit's result, with what became of it in each store that needed it."""
        for out, units in self.todo.items():
            if unit.index in units and out not in found:  # by a try whose result was lost
                record = self.writers[out].store.committed(units[unit.index])
                assert record is not None  # nothing takes a commit back while a run goes on
                found = {**found, out: unit_result(record, {}, ours=False)}
        parts = list(found.values())
        return UnitResult(
            unit=unit.index,
            scenes=max(part.scenes for part in parts),
            failures={k: v for part in parts for k, v in part.failures.items()},
            views=max(part.views for part in parts),
            dropped_views=max(part.dropped_views for part in parts),
            stored_bytes=sum(part.stored_bytes for part in parts),
            seconds={},
            remarks={k: v for part in parts for k, v in part.remarks.items()},
            parts=found,
            by_others=all(part.by_others for part in parts),
            wasted_s=sum(part.wasted_s for part in parts),
        )


def _told(out: str, unit: Unit, error: Exception) -> str:
    """Say on the log, and return, why one store's unit is left to a later run."""
    told = without_secrets(f"{type(error).__name__}: {error}")
    _log.error("%s: unit %d is left to a later run: %s", out, unit.index, told, exc_info=error)
    return told
