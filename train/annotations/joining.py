"""Items of the scenes that a store has; those that it lacks are counted and named."""

from collections import Counter
from collections.abc import Iterable, Sequence

from vega3d.pipeline.errors import UsageError
from vega3d.train.annotations.item import Item

_SHOWN = 3


def join(
    items: Sequence[Item], scene_ids: Iterable[str]
) -> tuple[dict[str, list[Item]], tuple[str, ...]]:
    """Return the items by the store's scene ids, and what was left out, in words.

    A scene is the same where the last part of its id is: `scannet/scene0000_00`, `scene0000_00`.

    Raises:
        UsageError: The store has none of the scenes.
    """
    known = {scene_id.rsplit("/", 1)[-1]: scene_id for scene_id in scene_ids}
    found: dict[str, list[Item]] = {}
    lacking: Counter[str] = Counter()
    for item in items:
        if item.scene_id in known:
            found.setdefault(known[item.scene_id], []).append(item)
        else:
            lacking[item.scene_id] += 1
    if not found:
        raise UsageError(
            f"none of the {len(lacking)} scenes that are asked about is in the stores, such as "
            f"{sorted(lacking)[:_SHOWN]}; the stores have {sorted(known)[:_SHOWN]}"
        )
    notes = []
    if lacking:
        names = ", ".join(sorted(lacking)[:_SHOWN])
        notes.append(
            f"{lacking.total()} of {len(items)} questions are about {len(lacking)} scenes that "
            f"the stores lack, such as {names}"
        )
    if idle := len(known) - len(found):
        notes.append(f"{idle} scenes of the stores have no question")
    return found, tuple(notes)
