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
from vega3d.pipeline.scenes.files import printable
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
        for file in _files(path, deep=os.path.abspath(path) != os.path.abspath(root)):
            kind = f"{relpath(os.path.dirname(file), root)}/*{splitext(file)[1].lower()}"
            found.setdefault(kind.removeprefix("./"), set()).add(_look(file))
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


def _files(folder: str, *, deep: bool, within: tuple[str, ...] = ()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in within:
        return  # a link that leads back
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")),
                           key=lambda entry: entry.name)  # fmt: skip
    except OSError:
        yield folder  # looking at it says that it is gone
        return
    for entry in found:
        if os.path.isdir(entry.path):
            if deep:
                yield from _files(entry.path, deep=True, within=(*within, real))
        else:
            yield entry.path


def _look(path: str) -> str:
    try:
        seen = os.stat(path)
    except OSError as error:
        return f"{basename(path)}: {error.strerror}"
    return f"{basename(path)}: {seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}"


def _hash(lines: Iterable[str]) -> str:
    text = "\n".join(sorted(lines)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()
