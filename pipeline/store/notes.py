"""Notes beside a unit's commit: how its scenes' source looked, and what reading it showed.

They are outside of every promise: no digest covers them, times of the source's files enter them,
and a store without them is whole. Each note names the content that it speaks of, so that one that
was left by another try is told apart.
"""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store import schema
from vega3d.pipeline.store.identity import canonical_json
from vega3d.pipeline.store.objects import Objects

NOTES = "unit/notes"

_READERS = 16
_MAX_BYTES = 2**26
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneNote:
    """What was seen when a scene was read."""

    content_sha256: str = ""
    """Of the content that this speaks of; "" where it could not be read."""

    source: Mapping[str, str] = field(default_factory=dict)
    """How its files looked just before: see `scenes.fingerprints`; empty where nobody says."""

    views_with_depth: int = 0
    views_with_pose: int = 0
    reprojection_m: float | None = None
    """Median distance of depths between neighbouring views; None where it cannot be measured."""

    misread: tuple[str, ...] = ()
    """Where depths do not agree, or lie where no room is: what would mend it."""

    remarks: tuple[str, ...] = ()
    """All that a person should know, these lines included."""


def notes_key(unit: int) -> str:
    """Return the name of the object with a unit's notes."""
    return f"{NOTES}/{unit:06d}.json"


def write_notes(objects: Objects, unit: int, notes: Mapping[str, SceneNote]) -> None:
    """Write a unit's notes whole, over older ones."""
    text = canonical_json({"scenes": {name: asdict(note) for name, note in notes.items()}})
    objects.replace(notes_key(unit), [text])


def read_notes(objects: Objects, unit: int) -> dict[str, SceneNote]:
    """Return a unit's notes by scene; none where they are damaged or of an older vega3d."""
    key = notes_key(unit)
    try:
        document = schema.load(objects.read(key, _MAX_BYTES), key, _MAX_BYTES)
        scenes = schema.members(document, key, ("scenes",))["scenes"]
        return {str(name): _note(schema.plain(note, key), key) for name, note in scenes.items()}
    except FileNotFoundError:
        return {}
    except (StoreError, AttributeError, TypeError, ValueError) as error:
        _log.warning("%s: %s; not believed", objects.url, error)
        return {}


def read_all_notes(objects: Objects, units: Iterable[int]) -> dict[str, SceneNote]:
    """Return the notes of many units, by scene."""
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda unit: read_notes(objects, unit), units)
        return {name: note for notes in found for name, note in notes.items()}


def _note(value: Any, key: str) -> SceneNote:  # noqa: ANN401 - plain JSON
    found = schema.members(value, key, [item.name for item in fields(SceneNote)])
    error = found["reprojection_m"]
    return SceneNote(
        content_sha256=schema.sha256_text(found["content_sha256"], key, empty=True),
        source={str(k): schema.text(v, key) for k, v in found["source"].items()},
        views_with_depth=schema.whole(found["views_with_depth"], key),
        views_with_pose=schema.whole(found["views_with_pose"], key),
        reprojection_m=None if error is None else float(error),
        misread=tuple(schema.text(line, key) for line in found["misread"]),
        remarks=tuple(schema.text(line, key) for line in found["remarks"]),
    )
