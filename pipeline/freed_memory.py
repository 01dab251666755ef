"""Pages that a process frees and keeps, so that the next view's pixels need no new ones.

glibc gives the pages of large arrays back whenever one is freed, and the kernel clears others for
the next: a tenth or more of what a core does for a ScanNet-sized view beside a GPU. This holds for
a whole process from then on: arrays up to 32 MiB come from one heap, and 256 MiB at its end stay.
"""

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Source: glibc, malloc/malloc.h."""

_LARGEST_ARRAY_BYTES = 32 << 20
"""Larger ones come and go by themselves; glibc takes no larger number."""

_KEPT_BYTES = 256 << 20


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
    mallopt(_MMAP_THRESHOLD, _LARGEST_ARRAY_BYTES)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_ARENA_MAX, 1)
