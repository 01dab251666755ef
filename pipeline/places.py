"""Places: made absolute at the start of a run, for a worker stands in another folder than the user.

Standard library only.
"""

import os
from pathlib import Path


def absolute(place: str) -> str:
    """Return a local path from the root on; a URL as it is."""
    return place if not place or "://" in place else str(Path(place).expanduser().absolute())


def roots_of(source: object) -> tuple[str, ...]:
    """Return the folders and URLs below which a source's files lie."""
    root = getattr(source, "root", "")
    tars = {str(one.url).rpartition("/")[0] for one in getattr(source, "scenes", ())}
    return tuple(sorted(filter(None, {str(root), *tars})))


def cache_dir() -> Path:
    """Return the folder of small remembered things: VEGA3D_CACHE, else ~/.cache/vega3d."""
    return Path(os.environ.get("VEGA3D_CACHE") or Path.home() / ".cache" / "vega3d")


def bench_file(backbone: str, device: str, dtype: str) -> Path:
    """Return where the last table of `bench` for an encoder on this machine is kept."""
    return cache_dir() / "bench" / f"{backbone}-{device}-{dtype}.json"
