"""How the files of a scene look from outside, so that a change shows without reading them.

Names, sizes and times, of the file and of its inode, are hashed by folder and kind of file: what
differs says which files to look into. What looks alike is taken to be the same; what differs may
still hold the same bytes, and only reading tells.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os.path import basename, relpath, splitext

from vega3d.pipeline.remote import Remote
from vega3d.pipeline.scenes.files import is_folder, printable
from vega3d.pipeline.scenes.scene import SceneSource

Fingerprint = Mapping[str, str]
"""Hash of each kind of file, such as `pose/*.txt`; empty where the source says nothing."""


def fingerprint(source: SceneSource, scene_id: str) -> Fingerprint:
    """Return how a scene's files look now; {} where the source does not say.

    A source that can has a method `fingerprint(scene_id)`.
    """
    method = getattr(source, "fingerprint", None)
    if method is None:
        return {}
    try:
        return {printable(str(kind)): str(look) for kind, look in method(scene_id).items()}
    except (OSError, ValueError, LookupError):
        return {}  # reading the scene says why


def of_files(paths: Sequence[str], root: str) -> Fingerprint:
    """Return how files look.

    Args:
        paths: Files, and folders: of `root` itself the files that lie directly in it, of others
            all below.
        root: What names are told from.
    """
    found: dict[str, set[str]] = {}
    for path in paths:
        if not os.path.isdir(path):
            found.setdefault(relpath(path, root), set()).add(_look(path))
            continue
        for folder, looks in _folders(path, deep=os.path.abspath(path) != os.path.abspath(root)):
            below = relpath(folder, root)
            for name, look in looks:
                kind = f"{below}/*{splitext(name)[1].lower()}".removeprefix("./")
                found.setdefault(kind, set()).add(look)
    return {kind: _hash(lines) for kind, lines in sorted(found.items())}


def of_object(url: str) -> Fingerprint:
    """Return how an object of a bucket or web server looks, by what it says of itself.

    Raises:
        TransientError: It does not answer.
    """
    folder, _, name = url.rpartition("/")
    return {name: Remote(folder).looks(name)}


def differing(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Return the kinds of files that look different."""
    return sorted(kind for kind in {*before, *now} if before.get(kind) != now.get(kind))


def _folders(
    folder: str, *, deep: bool, within: tuple[str, ...] = ()
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield a folder, and those below it, with the name and the look of each of its files."""
    real = os.path.realpath(folder)
    if real in within:
        return  # a link that leads back
    inner: list[str] = []
    looks: list[tuple[str, str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_folder(entry):
                    inner.append(entry.path)
                else:
                    looks.append((entry.name, _look(entry)))
    except OSError as error:
        looks.append(("", f"{basename(folder)}: {error.strerror}"))
    yield folder, looks
    for path in sorted(inner) if deep else ():
        yield from _folders(path, deep=True, within=(*within, real))


def _look(file: "str | os.DirEntry[str]") -> str:
    name = basename(file) if isinstance(file, str) else file.name
    try:
        seen = os.stat(file) if isinstance(file, str) else file.stat()
    except OSError as error:
        return f"{name}: {error.strerror}"
    return f"{name}: {seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}"


def _hash(lines: Iterable[str]) -> str:
    text = "\n".join(sorted(lines)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()
