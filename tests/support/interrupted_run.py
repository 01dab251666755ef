"""A run in a process of its own, to be killed: `interrupted_run.py STORE SCENES DELAY_S [KEY]`.

With KEY the process dies in the middle of writing that object: a temporary file is there, the
name is not. With `--no-links` the system knows no hard links, with `--no-renameat2` not that
either; `--die-claiming=KEY` dies where an empty file has taken the object's name.
"""

import ctypes
import errno
import os
import sys
from pathlib import Path, PurePath

from synthetic_unit import make_worker

from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.objects import FolderObjects
from vega3d.pipeline.store.writer import uncommitted


def die_at(key: str) -> None:
    write = FolderObjects._write_temporary
    name = PurePath(key).name

    def die(objects: FolderObjects, temporary: Path, parts: list[bytes]) -> None:
        wanted = Path(objects.url, key).parent
        if temporary.parent != wanted or not temporary.name.startswith(f".{name}."):
            write(objects, temporary, parts)
            return
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(bytes(parts[0])[:3])
        os._exit(9)

    FolderObjects._write_temporary = die


def without_links(*options: str) -> None:
    """Take from this process what some file systems do not know."""
    rename = os.rename

    def refuse(*_names: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def die(source: Path, target: Path) -> None:
        if any(option == f"--die-claiming={'/'.join(target.parts[-depth:])}"
               for option in options for depth in (1, 2, 3)):  # fmt: skip
            os._exit(9)
        rename(source, target)

    if "--no-links" in options:
        os.link = refuse
        os.rename = die
    if "--no-renameat2" in options:
        library = ctypes.CDLL  # numba opens its own by their names
        ctypes.CDLL = lambda name, *more, **how: library(name, *more, **how) if name else object()


if __name__ == "__main__":
    without_links(*sys.argv[4:])
    url, count, delay_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    for key in sys.argv[4:]:
        if not key.startswith("--"):
            die_at(key)
    plan, worker = make_worker(url, count, delay_s=delay_s)
    list(run_inline(worker, uncommitted(worker.store, plan)))
    merge_commits(worker.store)
