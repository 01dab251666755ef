"""Pages that a process frees and keeps, so that the next view's pixels need no new ones.

glibc gives the pages of large arrays back whenever one is freed, and the kernel clears others for
the next, 2 MiB at a time: a fifth of what a core does for a ScanNet-sized view beside a GPU. This
holds for a whole process from then on: all arrays come from one heap, and 512 MiB at its end stay,
as does what lies below something that lives: a process keeps about what it once needed.
"""

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Source: glibc, malloc/malloc.h."""

_KEPT_BYTES = 512 << 20


@cache
def keep_freed_memory() -> None:
    """Tell glibc once in a process; nothing where the environment tunes it, or where it is not."""
    tuned = any(name.startswith("MALLOC_") for name in os.environ)
    if tuned or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)  # no array has pages of its own
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_ARENA_MAX, 1)
