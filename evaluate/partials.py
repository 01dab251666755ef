"""Results of one unit on disk: an interrupted report goes on from them.

A file is named by the digest of everything that decides its numbers, so an old one can never be
taken for another; writing is to a temporary name and a rename, so a half-written one is never read.
It begins with the SHA-256 of the rest: zip's own checksums are looked at only after damaged lengths
and headers have been believed.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.pipeline.files import write_whole

_PLAIN = "plain"
_DIGEST_BYTES = 32


def array_name(*parts: str) -> str:
    """Return the name of an array by scene, tap, treatment and kind; names may hold anything."""
    return json.dumps(parts)


@dataclass(frozen=True, slots=True)
class Partial:
    """What one unit gave: JSON values, and arrays by name."""

    plain: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Partials:
    """The folder of partial results."""

    folder: Path

    def has(self, key: str) -> bool:
        """Tell whether the unit is done; a file that cannot be read whole counts as not done."""
        try:
            self._read(key)
        except (FileNotFoundError, ValueError):
            return False
        return True

    def write(self, key: str, partial: Partial) -> None:
        """Keep a unit's result."""
        text = np.frombuffer(json.dumps(partial.plain).encode(), dtype=np.uint8)
        held: dict[str, Any] = {**partial.arrays, _PLAIN: text}
        buffer = BytesIO()
        np.savez_compressed(buffer, **held)
        body = buffer.getvalue()
        write_whole(self._path(key), sha256(body).digest() + body)

    def plain(self, key: str) -> dict[str, Any]:
        """Read the JSON values of a unit, and none of its arrays."""
        found: dict[str, Any] = json.loads(self._read(key)[_PLAIN].tobytes())
        return found

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """Read the arrays of a unit."""
        held = self._read(key)
        return {name: held[name] for name in held.files if name != _PLAIN}

    def _read(self, key: str) -> np.lib.npyio.NpzFile:
        whole = self._path(key).read_bytes()
        digest, body = whole[:_DIGEST_BYTES], whole[_DIGEST_BYTES:]
        if sha256(body).digest() != digest:
            raise ValueError(f"{self._path(key)} is damaged; delete it and run the report again")
        held: np.lib.npyio.NpzFile = np.load(BytesIO(body), allow_pickle=False)
        return held

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.partial"
