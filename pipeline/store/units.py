"""The rows and shards that a store is planned to have."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True)
class Unit:
    """The scenes of one shard: the unit of work, of retry and of commit."""

    index: int
    first_row: int
    scene_ids: tuple[str, ...]

    last_sequence: int = -1
    """Of its latest record when the run began; -1 for none."""

    supersedes: bool = False
    """Whether its latest record is a commit that is to be superseded."""

    kept: frozenset[str] = frozenset()
    """Scenes of that commit whose features are carried over."""

    @property
    def todo(self) -> tuple[str, ...]:
        """The scenes to compute."""
        return tuple(scene_id for scene_id in self.scene_ids if scene_id not in self.kept)


@dataclass(frozen=True, slots=True)
class PlannedScene:
    """One row of a store."""

    scene_id: str
    source_views: int
    """Views that the source lists."""

    num_views: int
    """Views to keep of them, before any is dropped for its pose."""


@dataclass(frozen=True)
class Plan:
    """Every row and every shard that a store will have."""

    scenes: tuple[PlannedScene, ...]
    """In row order."""

    scenes_per_shard: int

    @cached_property
    def max_views(self) -> int:
        """Length of the view axis."""
        return max(1, *(scene.num_views for scene in self.scenes))

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units, in order; unit u holds the rows from u * scenes_per_shard on."""
        ids = [scene.scene_id for scene in self.scenes]
        step = self.scenes_per_shard
        return tuple(
            Unit(start // step, start, tuple(ids[start : start + step]))
            for start in range(0, len(ids), step)
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return the row table as plain JSON."""
        return [
            {"scene_id": s.scene_id, "source_views": s.source_views, "num_views": s.num_views}
            for s in self.scenes
        ]
