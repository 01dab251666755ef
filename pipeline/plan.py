"""Scenes to units: what every shard will hold, decided without touching a pixel."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes import SceneEntry


@dataclass(frozen=True, slots=True)
class Unit:
    """The scenes of one shard: the unit of work, of retry and of commit."""

    index: int
    first_row: int
    scene_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Every row and every shard that a store will have."""

    entries: tuple[SceneEntry, ...]
    """The scenes in row order."""

    scenes_per_shard: int
    """At most what the config asks for: less where tars hold fewer scenes."""

    max_views: int
    """Length of the view axis."""

    num_views: tuple[int, ...]
    """Views to keep of each scene, before any is dropped for its pose."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units, in order; unit u holds the rows from u * scenes_per_shard on."""
        ids = [entry.scene_id for entry in self.entries]
        step = self.scenes_per_shard
        return tuple(
            Unit(start // step, start, tuple(ids[start : start + step]))
            for start in range(0, len(ids), step)
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return the row table as plain JSON."""
        return [
            {"scene_id": entry.scene_id, "num_views": entry.num_views} for entry in self.entries
        ]


def plan_units(entries: Sequence[SceneEntry], *, num_views: int, scenes_per_shard: int) -> Plan:
    """Put scenes into units, each whole in one shard and each unit whole in one tar.

    Args:
        entries: The scenes, in the order of their rows.
        num_views: Views kept of a scene at most; 0 keeps all.
        scenes_per_shard: At most so many scenes in a unit.

    Raises:
        UsageError: There is no scene, or two share an id.
    """
    if not entries:
        raise UsageError("there is no scene to extract: the source lists none")
    ids = Counter(entry.scene_id for entry in entries)
    if twice := sorted(scene_id for scene_id, count in ids.items() if count > 1):
        raise UsageError(
            f"scene ids must differ, but {len(twice)} occur more than once: {twice[:5]}; "
            "rename the folders, or extract the sources into two stores"
        )
    kept = tuple(min(e.num_views, num_views) if num_views else e.num_views for e in entries)
    return Plan(
        entries=tuple(entries),
        scenes_per_shard=_scenes_per_shard(entries, scenes_per_shard),
        max_views=max(1, *kept),
        num_views=kept,
    )


def _scenes_per_shard(entries: Sequence[SceneEntry], wanted: int) -> int:
    """Return the largest number up to `wanted` at which no unit spans two tars."""
    counts = [len(list(run)) for _, run in groupby(entries, key=lambda entry: entry.group)]
    whole = math.gcd(*counts[:-1]) if len(counts) > 1 else wanted
    return max(step for step in range(1, wanted + 1) if whole % step == 0)
