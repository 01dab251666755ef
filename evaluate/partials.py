"""Results of one unit on disk: an interrupted report goes on from them.

A file is named by the digest of everything that decides its numbers, so an old one can never be
taken for another; writing is to a temporary name and a rename, so a half-written one is never read.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np

_PLAIN = "plain"


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
            self.plain(key)
            self.arrays(key)
        except (FileNotFoundError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return False
        return True

    def write(self, key: str, partial: Partial) -> None:
        """Keep a unit's result."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = np.frombuffer(json.dumps(partial.plain).encode(), dtype=np.uint8)
        held: dict[str, Any] = {**partial.arrays, _PLAIN: text}
        path = self._path(key)
        temporary = path.with_suffix(f".{os.getpid()}-{get_ident()}.tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **held)
        temporary.replace(path)

    def plain(self, key: str) -> dict[str, Any]:
        """Read the JSON values of a unit, and none of its arrays."""
        with self._opened(key) as held:
            found: dict[str, Any] = json.loads(held[_PLAIN].tobytes())
        return found

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """Read the arrays of a unit."""
        with self._opened(key) as held:
            return {name: held[name] for name in held.files if name != _PLAIN}

    @contextmanager
    def _opened(self, key: str) -> Iterator[np.lib.npyio.NpzFile]:
        """Open a file and close it whatever it holds: numpy leaves a damaged one open."""
        with self._path(key).open("rb") as file, np.load(file, allow_pickle=False) as held:
            yield held

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"
