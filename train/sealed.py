"""Files of a run that vouch for themselves: safetensors and JSON with a hash of all other bytes.

A flipped bit in a weight is a weight like any other, so nothing but a hash finds it. It stands in
the file itself (in the safetensors header's `__metadata__`, or as the field `sha256` of a JSON
object), so that file and hash cannot part; it is taken with 64 zeros in its own place. The files
stay what they are: any reader of safetensors or JSON reads them.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vega3d.pipeline.errors import UsageError

_KEY = "vega3d"
_UNSIGNED = "0" * 64
_NOT_OURS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What looking for our fields in another document raises."""


class DamagedFileError(UsageError):
    """A file is not what was written; the message names it."""


def seal(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Return the bytes of a safetensors file that holds its own hash.

    Args:
        tensors: By name.
        about: Plain JSON values that are kept, and hashed, with them.
    """
    # One metadata entry: safetensors writes several in no fixed order, and equal runs give
    # equal files.
    text = json.dumps({**about, "sha256": _UNSIGNED}, sort_keys=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    raw = bytearray(save(plain, {_KEY: text}))
    at = raw.index(_UNSIGNED.encode())
    raw[at : at + len(_UNSIGNED)] = hashlib.sha256(raw).hexdigest().encode()
    return bytes(raw)


def unseal(raw: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and what was kept with them.

    Raises:
        DamagedFileError: A bit of it is not what was written, or it never held a hash.
    """
    try:
        size = int.from_bytes(raw[:8], "little")
        about = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"][_KEY])
        found = about.pop("sha256").encode()
        at, digest = raw.index(found), hashlib.sha256()
        for part in (raw[:at], _UNSIGNED.encode(), memoryview(raw)[at + len(found) :]):
            digest.update(part)
        if digest.hexdigest().encode() != found:
            raise ValueError("its bytes do not match its hash")
        return load(raw), about
    except (*_NOT_OURS, SafetensorError) as error:
        raise DamagedFileError(
            f"{where} is damaged or was written by another version ({_told(error)})"
        ) from error


def sealed_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its own hash in the field `sha256`."""
    return {**value, "sha256": _json_sha256(value)}


def read_sealed_json(path: Path, remedy: str) -> dict[str, Any]:
    """Return a JSON object without its hash.

    Raises:
        DamagedFileError: It is not what was written; the message ends with the remedy.
    """
    try:
        value = json.loads(path.read_bytes())
        found = value.pop("sha256")
        if _json_sha256(value) != found:
            raise ValueError("its fields do not match its hash")
    except (*_NOT_OURS, OSError) as error:
        raise DamagedFileError(
            f"{path} is damaged or was written by another version ({_told(error)}); {remedy}"
        ) from error
    return dict(value)


def _json_sha256(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _told(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
