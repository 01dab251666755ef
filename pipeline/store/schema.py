"""Checking parsed documents before they are believed: types, ranges, lengths, nesting.

A store may come from anybody, and every document of it may be damaged. Each function returns its
value typed, or raises `SchemaError` that names the member; nothing is allocated by what it says.
"""

import math
import re
from collections.abc import Collection
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from vega3d.pipeline.errors import StoreError

MAX_DOCUMENT_BYTES = 2**28
MAX_SCENES = 2**24
MAX_VIEWS = 2**20
"""Of one scene."""

Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Place = Annotated[int, Meta(ge=0, le=MAX_SCENES)]
"""Types of members for `parse`: of a unit or a row the last."""

T = TypeVar("T")

_MAX_DEPTH = 12
_MAX_VALUES = 100_000
_MAX_TEXT = 65_536
_MAX_INTEGER = 10**19
_HEX = re.compile(r"[0-9a-f]{64}")


class SchemaError(StoreError):
    """A document that is not what it must be."""


def load(raw: bytes, what: str, limit: int = MAX_DOCUMENT_BYTES) -> Any:  # noqa: ANN401 - JSON
    """Parse a JSON document of bounded size.

    Raises:
        SchemaError: It is too long, no JSON, nested too deep, or holds NaN.
    """
    if len(raw) > limit:
        raise SchemaError(f"{what}: {len(raw)} bytes, more than the {limit} that it may have")
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise SchemaError(f"{what}: not JSON as it must be ({reason[:200]})") from error


def parse(decoder: "msgspec.json.Decoder[T]", raw: bytes, what: str) -> T:
    """Parse a JSON document and check its members at once: what a store has thousands of.

    Raises:
        SchemaError: It is no JSON, or a member is not what the decoder's type says.
    """
    try:
        return decoder.decode(raw)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{what} is not as it must be: {str(error)[:200]}") from error


def members(value: object, what: str, names: Collection[str]) -> dict[str, Any]:
    """Return an object that has exactly these members."""
    if not isinstance(value, dict):
        raise SchemaError(f"{what} must be an object")
    if len(value) == len(names) and all(name in value for name in names):
        return value
    if missing := sorted(set(names) - value.keys()):
        raise SchemaError(f"{what} has no {missing[0]!r}")
    if unknown := sorted(value.keys() - set(names)):
        raise SchemaError(f"{what} has an unknown member {unknown[0][:80]!r}")
    return value


def items(value: object, what: str, limit: int) -> list[Any]:
    """Return a list of at most so many items."""
    if not isinstance(value, list):
        raise SchemaError(f"{what} must be a list")
    if len(value) > limit:
        raise SchemaError(f"{what} has {len(value)} items, more than {limit}")
    return value


def whole(value: object, what: str, low: int = 0, high: int = 2**53) -> int:
    """Return an integer within a range, both ends included."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise SchemaError(f"{what} must be an integer")
    if not low <= value <= high:
        raise SchemaError(f"{what} is {value}, and must lie in {low}..{high}")
    return value


def text(value: object, what: str, limit: int = _MAX_TEXT) -> str:
    """Return a text of bounded length that can be encoded."""
    if not isinstance(value, str):
        raise SchemaError(f"{what} must be a text")
    try:
        if len(value.encode()) > limit:
            raise SchemaError(f"{what} is longer than {limit} bytes")
    except UnicodeEncodeError as error:
        raise SchemaError(f"{what} is no Unicode text") from error
    return value


def sha256_text(value: object, what: str, *, empty: bool = False) -> str:
    """Return 64 hexadecimal digits."""
    if not isinstance(value, str) or not (_HEX.fullmatch(value) or (empty and not value)):
        raise SchemaError(f"{what} must be 64 hexadecimal digits")
    return value


def plain(value: object, what: str) -> Any:  # noqa: ANN401 - JSON
    """Return any JSON value that is neither deep, nor long, nor out of every range."""
    left = _MAX_VALUES
    waiting: list[tuple[object, int]] = [(value, 0)]
    while waiting:
        current, depth = waiting.pop()
        left -= 1
        if left < 0:
            raise SchemaError(f"{what} holds more than {_MAX_VALUES} values")
        if depth > _MAX_DEPTH:
            raise SchemaError(f"{what} is nested deeper than {_MAX_DEPTH}")
        if isinstance(current, dict):
            for name in current:
                text(name, what, 1024)
            waiting += [(inner, depth + 1) for inner in current.values()]
        elif isinstance(current, list):
            waiting += [(inner, depth + 1) for inner in current]
        elif isinstance(current, str):
            text(current, what)
        elif isinstance(current, float) and not math.isfinite(current):
            raise SchemaError(f"{what} holds a number that is not finite")
        elif isinstance(current, int) and abs(current) >= _MAX_INTEGER:
            raise SchemaError(f"{what} holds an integer of more than 19 digits")
    return value
