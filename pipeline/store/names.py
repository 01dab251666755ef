"""Names that may be believed: of objects, taps, scenes and views.

A store may come from anybody. A name in it never leads out of its folder, to a terminal's control
codes, or to another array's files.
"""

import re
from collections.abc import Collection, Sequence

from vega3d.pipeline.errors import StoreError

MAX_NAME_BYTES = 1024

MAX_PUT_BYTES = 5 * 2**30
"""The largest object: the largest single PUT that S3 takes."""

_TAP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_USUAL_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,99}(?:/[A-Za-z0-9_][A-Za-z0-9_.]{0,99}){0,8}")
"""What most names of objects are: nothing in it leads anywhere."""

_USUAL_SCENE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_key(key: str) -> str:
    """Return an object's name; raises StoreError where it would lead out of the store."""
    if _USUAL_KEY.fullmatch(key):
        return key
    check_text("the object name", key)
    parts = key.split("/")
    if not key or "\\" in key or any(part in ("", ".", "..") for part in parts):
        raise StoreError(f"{key!r} is no name of an object: it leads out of the store")
    return key


def check_text(what: str, text: str, limit: int = MAX_NAME_BYTES) -> str:
    """Return a text that can be printed and kept; raises StoreError of any other."""
    if bad := _CONTROL.search(text):
        raise StoreError(f"{what} {text[:80]!r} has the control character {bad[0]!r}; rename it")
    if len(text.encode()) > limit:
        raise StoreError(f"{what} {text[:80]!r}... is longer than {limit} bytes; rename it")
    return text


def check_scene_ids(scene_ids: Sequence[str]) -> None:
    """Refuse ids that could not be part of a path: other commands name files after scenes.

    Raises:
        StoreError: One is empty, absolute, leads upwards or has control characters, or two are one.
    """
    for scene_id in scene_ids:
        if _USUAL_SCENE.fullmatch(scene_id):
            continue
        check_text("the scene id", scene_id)
        if not scene_id or "\\" in scene_id or any(
            part in ("", ".", "..") for part in scene_id.split("/")
        ):  # fmt: skip
            raise StoreError(
                f"the scene id {scene_id!r} would lead out of a folder that is named after it; "
                "rename the scene"
            )
    if len(set(scene_ids)) != len(scene_ids):
        raise StoreError("two scenes have one id; rename one of them")


def check_taps(taps: Sequence[str], reserved: Collection[str]) -> None:
    """Refuse taps whose array would lie elsewhere, or where another one lies.

    Raises:
        StoreError: A name is no plain word, is taken, or differs from another one in case alone.
    """
    if not taps:
        raise StoreError("a store needs at least one tap")
    for tap in taps:
        if not _TAP.fullmatch(tap):
            raise StoreError(
                f"the tap {tap[:80]!r} cannot name an array: it must be letters, digits, '_', '.' "
                "and '-', at most 128, and begin with a letter or digit; rename it"
            )
        if tap.lower() in reserved:
            raise StoreError(f"the tap {tap!r} has the name of another array of a store; rename it")
    if len({tap.lower() for tap in taps}) != len(taps):
        raise StoreError(f"two of the taps {list(taps)} differ at most in case; rename one of them")
