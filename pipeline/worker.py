"""The worker: units in, committed shards out. The same one in this process and on Ray."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from vega3d.pipeline.attempts import Attempts
from vega3d.pipeline.backbones.numerics import Numerics, apply_numerics, environment
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.errors import CheckpointError, SceneError, TransientError
from vega3d.pipeline.prepared import PreparedModel
from vega3d.pipeline.scenes.scene import SceneSource
from vega3d.pipeline.store.notes import SceneNote
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.scene_arrays import SceneArrays, SceneFailure
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.store.writer import StoreWriter
from vega3d.pipeline.texts import fixed_text, printable, without_secrets

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.backbone import Backbone
    from vega3d.pipeline.features import Ahead, DecodedScene, Known
    from vega3d.pipeline.reading_ahead import ReadScene

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitResult:
    """What comes back from a worker: a few numbers."""

    unit: int
    scenes: int
    failures: Mapping[str, str]
    views: int
    dropped_views: int
    stored_bytes: int
    seconds: Mapping[str, float]
    """Of decoding (overlapped), computing and storing."""

    details: Mapping[str, str] = field(default_factory=dict)
    """Of failures in this run, as libraries told them; for the run's log."""

    postponed: str = ""
    """Why the unit is left uncommitted, to a later run; its scenes are in `left`."""

    left: Sequence[str] = ()

    reprojection_m: Mapping[str, float] = field(default_factory=dict)
    """Of scenes with depth and poses: median distance of depths between neighbouring views."""

    misread: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Scenes whose depths do not agree, or lie where no room is, with what would mend them."""

    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What a person should know of scenes: what they lack, what was dropped, what is misread."""

    parts: Mapping[str, "UnitResult"] = field(default_factory=dict)
    """Where a unit is written to several stores: what became of it in each, by place."""


@dataclass(slots=True)
class ComputedUnit:
    """A unit's scenes, computed and not yet stored."""

    scenes: list[SceneArrays | SceneFailure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "compute": 0.0})
    details: dict[str, str] = field(default_factory=dict)
    notes: dict[str, SceneNote] = field(default_factory=dict)

    def note(self, read: "ReadScene") -> None:
        """Keep what reading a scene told, and the scene itself where that failed."""
        self.seconds["decode"] += read.seconds
        scene = read.scene
        if isinstance(scene, SceneFailure):
            self.scenes.append(scene)
            self.details[scene.scene_id] = without_secrets(read.detail)
            self.notes[scene.scene_id] = SceneNote(source=read.source)
        else:
            self.notes[scene.scene_id] = scene.note(read.source)


@dataclass
class UnitWriter:
    """Turns units into committed shards; picklable, loads the backbone on first use."""

    source: SceneSource
    model: PreparedModel
    store: StoreWriter

    def __call__(self, unit: Unit, limit_s: float = math.inf) -> UnitResult:
        """Compute a unit and commit it."""
        return self.commit(unit, self.compute(unit, limit_s=limit_s))

    @property
    def stores(self) -> tuple[StoreWriter, ...]:
        """Where it writes."""
        return (self.store,)

    def compute(
        self,
        unit: Unit,
        beat: Callable[[], None] = lambda: None,
        computing: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - does nothing
        limit_s: float = math.inf,
    ) -> ComputedUnit:
        """Decode and encode the scenes of a unit that are to be computed.

        Args:
            unit: The scenes of its `todo` are decoded one ahead.
            beat: Called from the first byte that is read, as a sign of life.
            computing: Held while the backbone works, and not while decoding.
            limit_s: A scene of which no view can be read for so long is given up.

        Raises:
            TransientError: A disk or a server does not answer, or a scene is not read in time.
        """
        from vega3d.pipeline.reading_ahead import read_ahead

        computed, config = ComputedUnit(), self.model.config
        for read in read_ahead(self.source, unit.todo, config, limit_s=limit_s, beat=beat):
            with computing:
                beat()
                self.add(read, computed)
            beat()
        return computed

    def add(
        self, read: "ReadScene", computed: ComputedUnit, geometry: "Known | None" = None
    ) -> None:
        """Encode a scene that was read, and put it to the others of its unit.

        Args:
            read: As it came from its source.
            computed: Of the unit so far.
            geometry: Of the scene, where another encoder's tokens have been placed; taken where
                they divide the image alike, else added to.
        """
        start = time.monotonic()
        computed.note(read)
        if not isinstance(read.scene, SceneFailure):
            computed.scenes.append(self._encode(read.scene, read.ahead, geometry, computed))
        computed.seconds["compute"] += time.monotonic() - start

    def commit(self, unit: Unit, computed: ComputedUnit) -> UnitResult:
        """Write a computed unit's shards and its commit record."""
        start = time.monotonic()
        found = environment(self._numerics.device)
        self.store.write_notes(unit, computed.notes)  # first: one without its commit is harmless
        record = self.store.write_unit(unit, computed.scenes, found)
        result = unit_result(record, {**computed.seconds, "store": time.monotonic() - start})
        return replace(
            result,
            details={**result.failures, **computed.details},
            reprojection_m={
                name: note.reprojection_m
                for name, note in computed.notes.items()
                if note.reprojection_m is not None
            },
            misread={name: note.misread for name, note in computed.notes.items() if note.misread},
            remarks={name: note.remarks for name, note in computed.notes.items() if note.remarks},
        )

    def give_up(self, unit: Unit, reason: str) -> UnitResult:
        """Record the scenes of a unit that no worker could finish as failed with this reason."""
        return unit_result(self.store.write_failed_unit(unit, reason), {})

    def _encode(
        self,
        decoded: "DecodedScene",
        ahead: "Ahead",
        geometry: "Known | None",
        computed: ComputedUnit,
    ) -> SceneArrays | SceneFailure:
        from vega3d.pipeline.features import encode_scene
        from vega3d.pipeline.reading_ahead import detail, places

        try:
            apply_numerics(self._numerics)  # of this store: another one's may have come between
            return encode_scene(decoded, self._backbone, self.model.config, ahead, geometry)
        except SceneError as error:
            computed.details[decoded.scene_id] = without_secrets(detail(error))
            return SceneFailure(decoded.scene_id, fixed_text(str(error), places(self.source)))
        except Exception as error:
            error.add_note(f"while computing scene {decoded.scene_id}")
            raise

    @cached_property
    def _numerics(self) -> Numerics:
        return Numerics(**self.store.numerics)

    @cached_property
    def _backbone(self) -> "Backbone":
        from vega3d.pipeline.backbones.checkpoints import model_name
        from vega3d.pipeline.backbones.hashing import model_sha256
        from vega3d.pipeline.backbones.loading import load_from_config

        config = self.model.config.backbone
        if (found := model_sha256(config)) != self.model.identity["weights_sha256"]:
            raise CheckpointError(
                f"{model_name(config)}: this worker finds weights {found[:12]}, the store is "
                f"made with {self.model.identity['weights_sha256'][:12]}; "
                "give all nodes the same model"
            )
        return load_from_config(config, self._numerics, self.model.prompt)


class UnitWorker(Protocol):
    """What a runner hands units to: one store's writer, or that of several."""

    source: SceneSource

    @property
    def stores(self) -> Sequence[StoreWriter]:
        """Where it writes."""
        ...

    def __call__(self, unit: Unit, limit_s: float = math.inf) -> UnitResult:
        """Compute a unit and commit it."""
        ...

    def compute(
        self,
        unit: Unit,
        beat: Callable[[], None],
        computing: AbstractContextManager[object],
        limit_s: float,
    ) -> Any:  # noqa: ANN401 - what its own `commit` takes
        """Decode and encode the scenes of a unit."""
        ...

    def commit(self, unit: Unit, computed: Any) -> UnitResult:  # noqa: ANN401
        """Write a computed unit's shards and its commit record."""
        ...

    def give_up(self, unit: Unit, reason: str) -> UnitResult:
        """Record the scenes of a unit that no worker could finish as failed with this reason."""
        ...


Runner = Callable[[UnitWorker, Sequence[Unit]], Iterator[UnitResult]]


def run_inline(
    worker: UnitWorker,
    units: Sequence[Unit],
    config: RunConfig = RunConfig(),  # noqa: B008 - frozen
) -> Iterator[UnitResult]:
    """Do the units one after the other in this process: the reference for every other runner.

    A unit whose cause may pass is tried again after the others, and is postponed in the end.
    """
    attempts = Attempts(config.attempts, config.unit_timeout_s)
    waiting = deque(units)
    while waiting:
        unit = waiting.popleft()
        if attempts.exhausted:
            yield postponed(unit, attempts.told(unit))
            continue
        try:
            result = worker(unit, config.unit_timeout_s)
        except TransientError as error:
            again = attempts.failed(unit, without_secrets(str(error)))
            _log.warning("unit %d: %s", unit.index, without_secrets(str(error)))
            if not again:
                yield postponed(unit, attempts.told(unit))
                continue
            waiting.append(unit)
            time.sleep(attempts.pause_s())
        else:
            attempts.succeeded()
            yield result


def postponed(unit: Unit, reason: str) -> UnitResult:
    """Return the result of a unit that is left to a later run."""
    return UnitResult(
        unit=unit.index,
        scenes=len(unit.scene_ids),
        failures={},
        views=0,
        dropped_views=0,
        stored_bytes=0,
        seconds={},
        postponed=printable(reason),
        left=unit.scene_ids,
    )


def unit_result(record: Record, seconds: Mapping[str, float]) -> UnitResult:
    """Return the few numbers of a commit record."""
    return UnitResult(
        unit=record.unit,
        scenes=len(record.scenes),
        failures={scene.scene_id: scene.failure for scene in record.scenes if scene.failure},
        views=sum(len(scene.view_ids) for scene in record.scenes),
        dropped_views=sum(scene.dropped_views for scene in record.scenes),
        stored_bytes=record.stored_bytes,
        seconds=seconds,
    )
