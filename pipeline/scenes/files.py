"""Files and folders of captures: listing, reading, and in plain words why that cannot be done."""

import codecs
import os
from collections.abc import Iterable
from dataclasses import dataclass

from vega3d.pipeline.local_files import (
    MAX_FILE_BYTES,
    check_no_pointer,
    read_plain,
    told_if_unfetched,
)
from vega3d.pipeline.scenes.scene import natural_key

MAX_MATRIX_BYTES = 1 << 20
MAX_TABLE_BYTES = 1 << 28
"""Of text files that hold one matrix, or one line a view."""

_BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds, by name; hidden entries and S3's folder markers are left out."""

    path: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    alone: bool = False
    """The location is one file: it stands here by itself, whatever lies beside it."""

    def join(self, *names: str) -> str:
        """Return the path of something below it."""
        return os.path.join(self.path, *names)

    def open_folder(self, name: str) -> "Folder":
        """List a folder below this one; an empty one where there is none of that name."""
        return list_folder(self.join(name)) if name in self.folders else Folder("", (), ())


def list_folder(path: str) -> Folder:
    """List one folder, in natural order, or a file by itself; raises OSError where it may not."""
    if os.path.isfile(path):
        return Folder(os.path.dirname(path), (os.path.basename(path),), (), alone=True)
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(path) as found:
        for entry in found:
            if entry.name.startswith("."):
                continue
            (folders if is_folder(entry) else files).append(entry.name)
    return Folder(
        path, tuple(sorted(files, key=natural_key)), tuple(sorted(folders, key=natural_key))
    )


def by_stem(names: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, str]:
    """Return the names that end so, in any case, by what precedes the ending; the first one wins.

    Args:
        names: File names.
        suffixes: In lower case, with their dots; an earlier one is preferred.
    """
    found: dict[str, str] = {}
    names = tuple(names)
    for suffix in suffixes:
        for name in names:
            if name.lower().endswith(suffix):
                found.setdefault(name[: -len(suffix)], name)
    return found


def size_bytes(paths: Iterable[str]) -> int:
    """Return the bytes of files, and of the files that lie directly in folders."""
    total = 0
    for path in paths:
        if os.path.isdir(path):
            with os.scandir(path) as found:
                total += sum(_size(entry.path) for entry in found if not is_folder(entry))
        else:
            total += _size(path)
    return total


def read_file(path: str, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return a file's bytes.

    Raises:
        OSError: It cannot be read, leads nowhere, is no plain file, holds more than `limit_bytes`,
            or is a pointer that Git LFS left in its place.
        TransientError: The disk or mount did not answer.
    """
    with told_if_unfetched(path):
        data = read_plain(path, limit_bytes)
    check_no_pointer(data, path)
    return data


def read_text(path: str, limit_bytes: int = MAX_MATRIX_BYTES) -> str:
    """Return a text file's content, whatever its byte order mark; raises OSError as `read_file`."""
    data = read_file(path, limit_bytes)
    if data.startswith(_BYTE_ORDER_MARKS):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def printable(text: str) -> str:
    """Return a name with what is no UTF-8 escaped, so that every stream and file takes it."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Say whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; reading it says so
        return False


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a link to nowhere; reading its view says so
        return 0
