"""The worker: units in, committed shards out. The same one in this process and on Ray."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from vega3d.pipeline.backbones.numerics import Numerics, apply_numerics, environment
from vega3d.pipeline.errors import CheckpointError, SceneError
from vega3d.pipeline.next_unit import NextUnit
from vega3d.pipeline.places import roots_of
from vega3d.pipeline.results import ComputedUnit, UnitResult, unit_result
from vega3d.pipeline.scenes.scene import SceneSource
from vega3d.pipeline.store.scene_arrays import SceneArrays, SceneFailure
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.store.writer import StoreWriter
from vega3d.pipeline.texts import fixed_text, without_secrets

T = TypeVar("T")

if TYPE_CHECKING:
    from vega3d.pipeline.prepared import PreparedModel
    from vega3d.pipeline.reading_ahead import ReadScene, UnitReading
    from vega3d.pipeline.taking import Encodes, Known

_log = logging.getLogger(__name__)


@dataclass
class UnitWriter:
    """Turns units into committed shards; picklable, loads the backbone on first use."""

    source: SceneSource
    model: "PreparedModel"
    store: StoreWriter
    encoder: "Encodes | None" = None
    """Takes the place of the model's own, to measure what a run takes beside it."""

    def __call__(self, unit: Unit, limit_s: float = math.inf) -> UnitResult:
        """Compute a unit and commit it."""
        return self.commit(unit, self.compute(unit, limit_s=limit_s))

    @property
    def stores(self) -> tuple[StoreWriter, ...]:
        """Where it writes."""
        return (self.store,)

    @property
    def models(self) -> "tuple[PreparedModel, ...]":
        """What it runs."""
        return (self.model,)

    def prepare(self) -> None:
        """Load the encoder, as the first unit would."""
        apply_numerics(self._numerics)
        _ = self.backbone

    def compute(
        self,
        unit: Unit,
        beat: Callable[[], None] = lambda: None,
        computing: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - does nothing
        limit_s: float = math.inf,
        next_unit: NextUnit | None = None,
    ) -> ComputedUnit:
        """Decode and encode the scenes of a unit that are to be computed.

        The last one may still be in the encoder: the next unit can be begun, and `commit` waits.

        Args:
            unit: The scenes of its `todo` are decoded ahead.
            beat: Called from the first byte that is read, as a sign of life.
            computing: Held while the backbone works, and not while decoding.
            limit_s: A scene of which no view can be read for so long is given up.
            next_unit: Has the unit's first scenes read already, and begins with the next unit's.

        Raises:
            TransientError: A disk or a server does not answer, or a scene is not read in time.
        """
        if found := self.store.committed(unit):
            return ComputedUnit(committed=found)  # another job was faster
        computed = ComputedUnit()
        reading = next_unit.taken(unit) if next_unit else self.read(unit, beat, limit_s)
        try:
            for read in reading.scenes(next_unit.begin if next_unit else _nothing):
                with computing:
                    beat()
                    finish = self._start_scene(read, computed)
                    finish_previous, computed.finish_last = computed.finish_last, finish
                    finish_previous()  # a GPU works at this scene meanwhile
                beat()
        except BaseException:
            computed.finish_last = _nothing  # see `commit`
            raise
        return computed

    def read(
        self, unit: Unit, beat: Callable[[], None] = lambda: None, limit_s: float = math.inf
    ) -> "UnitReading":
        """Begin to read the scenes of a unit; see `compute`."""
        from vega3d.pipeline.reading_ahead import UnitReading

        config = self.model.config
        return UnitReading(self.source, unit.todo, config, limit_s=limit_s, beat=beat)

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
        self._start_scene(read, computed, geometry)()

    def _start_scene(
        self, read: "ReadScene", computed: ComputedUnit, geometry: "Known | None" = None
    ) -> Callable[[], None]:
        """Give a scene to the encoder, and return what adds it to its unit when it is through."""
        name, note = read.scene.scene_id, computed.noting(read)
        start = time.monotonic()
        begun = self._hand_to_encoder(read, computed, geometry)
        computed.seconds["compute"] += time.monotonic() - start

        def finish() -> None:
            start = time.monotonic()
            self._guarded(name, computed, note)
            noted = time.monotonic()
            computed.scenes.append(begun())
            computed.seconds["decode"] += noted - start
            computed.seconds["compute"] += time.monotonic() - noted

        return finish

    def commit(self, unit: Unit, computed: ComputedUnit) -> UnitResult:
        """Write a computed unit's shards and its commit record."""
        if computed.committed:
            return unit_result(computed.committed, {}, ours=False)
        # It holds the unit, which holds it.
        finish_last, computed.finish_last = computed.finish_last, _nothing
        before_s, is_alone = dict(computed.seconds), not computed.scenes
        finish_last()
        if not is_alone:  # who computes the next unit waits for the encoder too, and counts it
            computed.seconds = before_s
        start = time.monotonic()
        found = environment(self._numerics.device)
        self.store.write_notes(unit, computed.notes)  # first: one without its commit is harmless
        record, ours = self.store.put_unit(unit, computed.scenes, found)
        took_s = {**computed.seconds, "store": time.monotonic() - start}
        result = unit_result(record, took_s, ours=ours)
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

    def _hand_to_encoder(
        self, read: "ReadScene", computed: ComputedUnit, geometry: "Known | None"
    ) -> Callable[[], SceneArrays | SceneFailure]:
        """Return what hands over a scene, which the encoder has begun with where it was read."""
        from vega3d.pipeline.backbones.gpu_errors import tried_with_room
        from vega3d.pipeline.features import begin_scene

        scene = read.scene
        if isinstance(scene, SceneFailure):
            return lambda: scene
        name = scene.scene_id  # what is returned holds no pixels
        apply_numerics(self._numerics)  # of this store: another one's may have come between
        backbone = self.backbone

        def begin() -> Callable[[], SceneArrays]:
            return begin_scene(scene, backbone, self.model.config, read.prefetch, geometry)

        def finish_previous() -> None:
            finish, computed.finish_last = computed.finish_last, _nothing
            finish()

        begun = self._guarded(name, computed, lambda: tried_with_room(begin, name, finish_previous))
        if isinstance(begun, SceneFailure):
            return lambda: begun
        return lambda: self._guarded(name, computed, begun)

    def _guarded(
        self, scene_id: str, computed: ComputedUnit, step: Callable[[], T]
    ) -> T | SceneFailure:
        """Return what a step of a scene gives, or why the scene failed."""
        from vega3d.pipeline.reading_ahead import detail

        try:
            return step()
        except SceneError as error:
            computed.details[scene_id] = without_secrets(detail(error))
            return SceneFailure(scene_id, fixed_text(str(error), roots_of(self.source)))
        except Exception as error:
            error.add_note(f"while computing scene {scene_id}")
            raise

    @cached_property
    def _numerics(self) -> Numerics:
        return Numerics(**self.store.numerics)

    @cached_property
    def backbone(self) -> "Encodes":
        """The encoder, loaded on first use."""
        if self.encoder is not None:
            return self.encoder
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


def _nothing() -> None:
    """Finish what was never begun."""
