"""How many cores there are to work with."""

import os


def usable_cores() -> int:
    """Return how many cores this process may use; a container or scheduler may have cut them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # not Linux
