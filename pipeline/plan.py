"""Scenes to units: what every shard will hold, decided without touching a pixel."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.scene import SceneEntry
from vega3d.pipeline.store.units import Plan, PlannedScene


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
    scenes = tuple(
        PlannedScene(
            entry.scene_id,
            entry.num_views,
            min(entry.num_views, num_views) if num_views else entry.num_views,
        )
        for entry in entries
    )
    return Plan(scenes, _scenes_per_shard(entries, scenes_per_shard))


def _scenes_per_shard(entries: Sequence[SceneEntry], wanted: int) -> int:
    """Return the largest number up to `wanted` at which no unit spans two tars."""
    counts = [len(list(run)) for _, run in groupby(entries, key=lambda entry: entry.group)]
    whole = math.gcd(*counts[:-1]) if len(counts) > 1 else wanted
    return max(step for step in range(1, wanted + 1) if whole % step == 0)
