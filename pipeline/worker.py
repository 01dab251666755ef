"""The worker: units in, committed shards out. The same one in this process and on Ray."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vega3d.pipeline.backbones.numerics import Numerics, apply_numerics, environment
from vega3d.pipeline.errors import CheckpointError, SceneError
from vega3d.pipeline.prepared import PreparedModel
from vega3d.pipeline.scenes.scene import SceneSource
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.scene_arrays import SceneArrays, SceneFailure
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.store.writer import StoreWriter

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.backbone import Backbone
    from vega3d.pipeline.features import DecodedScene


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


@dataclass(frozen=True, slots=True)
class ComputedUnit:
    """A unit's scenes, computed and not yet stored."""

    scenes: Sequence[SceneArrays | SceneFailure]
    seconds: Mapping[str, float]


@dataclass
class UnitWriter:
    """Turns units into committed shards; picklable, loads the backbone on first use."""

    source: SceneSource
    model: PreparedModel
    store: StoreWriter

    def __call__(self, unit: Unit) -> UnitResult:
        """Compute a unit and commit it."""
        return self.commit(unit, self.compute(unit))

    def compute(
        self,
        unit: Unit,
        beat: Callable[[], None] = lambda: None,
        computing: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - does nothing
    ) -> ComputedUnit:
        """Decode and encode the scenes of a unit that are to be computed.

        Args:
            unit: The scenes of its `todo` are decoded one ahead.
            beat: Called before and after each scene is computed, as a sign of life.
            computing: Held while the backbone works, and not while decoding.
        """
        from vega3d.pipeline.features import decode_ahead

        scenes: list[SceneArrays | SceneFailure] = []
        seconds = {"decode": 0.0, "compute": 0.0}
        for decoded, took in decode_ahead(self.source, unit.todo, self.model.config):
            seconds["decode"] += took
            with computing:
                beat()
                start = time.monotonic()
                scenes.append(
                    decoded if isinstance(decoded, SceneFailure) else self._encode(decoded)
                )
                seconds["compute"] += time.monotonic() - start
            beat()
        return ComputedUnit(scenes, seconds)

    def commit(self, unit: Unit, computed: ComputedUnit) -> UnitResult:
        """Write a computed unit's shards and its commit record."""
        start = time.monotonic()
        found = environment(self._numerics.device)
        record = self.store.write_unit(unit, computed.scenes, found)
        return unit_result(record, {**computed.seconds, "store": time.monotonic() - start})

    def _encode(self, decoded: "DecodedScene") -> SceneArrays | SceneFailure:
        from vega3d.pipeline.features import encode_scene

        try:
            return encode_scene(decoded, self._backbone, self.model.config)
        except SceneError as error:
            return SceneFailure(decoded.scene_id, str(error))
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
        apply_numerics(self._numerics)
        return load_from_config(config, self._numerics, self.model.prompt)


Runner = Callable[[UnitWriter, Sequence[Unit]], Iterator[UnitResult]]


def run_inline(worker: UnitWriter, units: Sequence[Unit]) -> Iterator[UnitResult]:
    """Do the units one after the other in this process: the reference for every other runner."""
    for unit in units:
        yield worker(unit)


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
