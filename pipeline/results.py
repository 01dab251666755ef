"""What becomes of a unit: computed, stored, or left to a later run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vega3d.pipeline.store.notes import SceneNote
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.scene_arrays import SceneArrays, SceneFailure
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.texts import printable, without_secrets

if TYPE_CHECKING:
    from vega3d.pipeline.reading_ahead import ReadScene


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

    scene_ids: Sequence[str] = ()

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

    worker: str = ""
    """Who did it: address of its node and process; "" in the driver's own process."""

    by_others: bool = False
    """Another job, or another try, had committed it already: nothing was added."""

    wasted_s: float = 0.0
    """Seconds of work on the unit that were not needed, because somebody else had done it."""


@dataclass(slots=True)
class ComputedUnit:
    """A unit's scenes, computed and not yet stored."""

    scenes: list[SceneArrays | SceneFailure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "compute": 0.0})
    details: dict[str, str] = field(default_factory=dict)
    notes: dict[str, SceneNote] = field(default_factory=dict)
    committed: Record | None = None
    """By another job, before any of it was computed here."""

    finish_last: Callable[[], None] = lambda: None
    """Waits for the last scene, which may still be in the encoder, and adds it to `scenes`; called
    by who commits the unit."""

    def noting(self, read: "ReadScene") -> Callable[[], None]:
        """Return what keeps all that reading a scene told; it holds none of its pixels."""
        self.seconds["decode"] += read.seconds
        scene, source = read.scene, read.source
        name = scene.scene_id
        if isinstance(scene, SceneFailure):
            self.details[name] = without_secrets(read.detail)
            self.notes[name] = SceneNote(source=source)
            return lambda: None
        seen = scene.seen

        def note() -> None:
            self.notes[name] = seen.note(source)

        return note


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
        scene_ids=unit.scene_ids,
        postponed=printable(reason),
        left=unit.scene_ids,
    )


def unit_result(record: Record, seconds: Mapping[str, float], *, ours: bool = True) -> UnitResult:
    """Return the few numbers of a commit record.

    Args:
        record: The commit that counts.
        seconds: Of the stages that led to it, or that were in vain.
        ours: Whether this try wrote it; another's makes the seconds a waste.
    """
    return UnitResult(
        unit=record.unit,
        scenes=len(record.scenes),
        failures={scene.scene_id: scene.failure for scene in record.scenes if scene.failure},
        views=sum(len(scene.view_ids) for scene in record.scenes),
        dropped_views=sum(scene.dropped_views for scene in record.scenes),
        stored_bytes=record.stored_bytes,
        seconds=seconds,
        scene_ids=[scene.scene_id for scene in record.scenes],
        by_others=not ours,
        wasted_s=0.0 if ours else sum(seconds.values()),
    )
