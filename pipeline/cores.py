"""How many cores there are to work with."""

import os


def usable_cores() -> int:
    """Return how many cores this process may run on at once.

    A scheduler or a cpuset may have cut them; a quota of time (`docker --cpus`) does not show here.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # not Linux
