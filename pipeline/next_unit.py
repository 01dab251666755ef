"""The next unit's first scenes, read while the last of a unit are computed."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from vega3d.pipeline.errors import StoreError, TransientError
from vega3d.pipeline.store.units import Unit

if TYPE_CHECKING:
    from vega3d.pipeline.reading_ahead import UnitReading


class UnitReader(Protocol):
    """What begins to read a unit: a worker."""

    def read(self, unit: Unit, *, limit_s: float) -> "UnitReading":
        """Begin to read the scenes of a unit."""
        ...


class NextUnit:
    """Between two units: when one is read and little of it is left, the next one is begun."""

    def __init__(self, worker: UnitReader, limit_s: float, following: Sequence[Unit]) -> None:
        """Read for a worker; the first of `following`, which may change, is the unit to come."""
        self._worker, self._limit_s, self._following = worker, limit_s, following
        self._begun: tuple[Unit, UnitReading] | None = None

    def begin(self) -> None:
        """Begin to read the unit to come; where that cannot be, its own turn says why."""
        if self._following:
            with suppress(TransientError, StoreError):
                unit = self._following[0]
                self._begun = unit, self._worker.read(unit, limit_s=self._limit_s)

    def taken(self, unit: Unit) -> "UnitReading":
        """Return the reading of a unit, begun or not."""
        begun, self._begun = self._begun, None
        if begun is not None and begun[0] is unit:
            return begun[1]
        if begun is not None:
            begun[1].stop()
        return self._worker.read(unit, limit_s=self._limit_s)

    def close(self) -> None:
        """Drop what nobody took."""
        if self._begun is not None:
            self._begun[1].stop()
