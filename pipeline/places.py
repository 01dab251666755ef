"""Places made absolute at the start of a run: a worker stands in another folder than the user.

Standard library only.
"""

from pathlib import Path


def absolute(place: str) -> str:
    """Return a local path from the root on; a URL as it is."""
    return place if not place or "://" in place else str(Path(place).expanduser().absolute())
