"""Places made absolute at the start of a run: a worker stands in another folder than the user.

Standard library only.
"""

import os
from pathlib import Path


def absolute(place: str) -> str:
    """Return a local path from the root on; a URL as it is."""
    return place if not place or "://" in place else str(Path(place).expanduser().absolute())


def cache_dir() -> Path:
    """Return the folder of small remembered things: VEGA3D_CACHE, else ~/.cache/vega3d."""
    return Path(os.environ.get("VEGA3D_CACHE") or Path.home() / ".cache" / "vega3d")
