"""Digests: what makes two stores the same, and how they differ where they do not."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

FORMAT_VERSION = 2
"""Of the stores that are written; raised when the meaning or layout of stored bytes changes."""

READABLE_FORMATS = (1, FORMAT_VERSION)
"""Of the stores that are read; those of an older format are never written to."""


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - any plain JSON value
    """Return the one JSON text of a value: sorted keys, no spaces, NaN refused."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256_of(parts: Iterable[bytes | memoryview]) -> str:
    """Return the hex sha256 of the parts, as if they were joined."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def config_digest(identity: Mapping[str, Any]) -> str:
    """Return the digest of what decides the stored bytes.

    The model's name is left out: its weights' hash is what counts, so a hub id and a local copy
    of the same weights give the same store.
    """
    return sha256_of([canonical_json(_without_name(identity))])


def differing_fields(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return `field: theirs -> ours` for every leaf that differs, in order of names."""
    left, right = _leaves(_without_name(ours)), _leaves(_without_name(theirs))
    return [
        f"{name}: {right.get(name, 'not set')} -> {left.get(name, 'not set')}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def _without_name(identity: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in identity["config"].items() if name != "model"}
    return {**identity, "config": config}


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    leaves: dict[str, str] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            leaves |= _leaves(inner, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = json.dumps(inner)
    return leaves
