"""A store's objects as files below a folder, durable and created once.

A file is written under a temporary name, in parts, then fsynced, linked to its name (which fails
where the name is taken) and the folder fsynced. Where there are no hard links it is renamed in a
way that fails likewise. Only plain files below the folder are opened.
"""

import ctypes
import errno
import os
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from vega3d.pipeline.errors import StoreError, TransientError
from vega3d.pipeline.files import sync
from vega3d.pipeline.local_files import open_plain
from vega3d.pipeline.store.durable import Parts as Parts
from vega3d.pipeline.store.durable import make_folders, write_new
from vega3d.pipeline.store.names import MAX_PUT_BYTES, check_key
from vega3d.pipeline.transient import is_transient, retried

TEMPORARY_SUFFIX = ".partial"

_SMALL_BYTES = 2**20
"""Of a file that is read by one call."""

_HERE = -100
_NO_REPLACE = 1
"""AT_FDCWD and RENAME_NOREPLACE of renameat2(2), Linux."""

_UNKNOWN = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What a file system says that has no hard links, or no such renaming."""


@dataclass(frozen=True, slots=True)
class FolderObjects:
    """Objects as files below a folder."""

    url: str
    _known: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Folders that were found to lie inside: to ask for each of 10,000 files takes seconds."""

    def read(self, key: str, limit: int = MAX_PUT_BYTES) -> bytes:
        """Return an object's bytes, at most so many; raises FileNotFoundError."""
        if (found := self._read_at_once(key, limit)) is not None:
            return found
        with self._opened(key) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise StoreError(
                    f"{self.url}/{key} has {size} bytes, more than the {limit} that it may have"
                )
            return file.read()

    def size(self, key: str) -> int:
        """Return an object's size; raises FileNotFoundError."""
        with self._opened(key) as file:
            return os.fstat(file.fileno()).st_size

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Return an object's last bytes, and its size; raises FileNotFoundError."""
        with self._opened(key) as file:
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), min(length, size), max(0, size - length)), size

    def read_parts(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return pieces of an object, each an offset and a length; raises FileNotFoundError."""
        with self._opened(key) as file:
            return [os.pread(file.fileno(), length, offset) for offset, length in spans]

    def create(self, key: str, parts: Parts) -> bool:
        """Write a new object durably; False, with nothing changed, where the name is taken."""
        path, unsure = self._place(key), False

        def ask() -> bool:
            nonlocal unsure
            try:
                with _told(path, "write"):
                    if self._link(path, parts):
                        return True
            except TransientError:
                unsure = True
                raise
            # A link may have been made though its folder's fsync failed: then it is ours.
            return unsure and self.read(key) == b"".join(parts)

        return retried(ask)

    def replace(self, key: str, parts: Parts) -> None:
        """Write an object durably, over an older one if there is one."""
        path = self._place(key)

        def ask() -> None:
            with _told(path, "write"), self._temporary(path, parts) as temporary:
                os.replace(temporary, path)
                sync(path.parent)

        retried(ask)

    def copy(self, key: str, other: str) -> None:
        """Give an object a second name, over what had that name: a hard link where there are."""
        path = self._place(other)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        try:
            os.link(self._path(key), temporary)
        except OSError:
            self.replace(other, [self.read(key)])
            return
        with _told(path, "write"):
            os.replace(temporary, path)
            temporary.unlink(missing_ok=True)  # renaming one of two names of a file does nothing
            sync(path.parent)

    def same(self, key: str, other: str) -> bool:
        """Say whether two names are known to hold the same bytes: they are one file."""
        with _told(self._path(key), "look for"):
            return os.path.samefile(self._path(key), self._path(other))

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        path = self._place(key)
        with _told(path, "remove"):
            path.unlink(missing_ok=True)

    def age_s(self, key: str) -> float:
        """Return the seconds since an object was written; raises FileNotFoundError."""
        path = self._path(key)
        with _told(path, "look for"):
            return time.time() - path.lstat().st_mtime

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names below `prefix`, sorted."""
        below = Path(self.url, prefix)

        def ask() -> list[str]:
            with _told(below, "list"):
                return sorted(_names(self.url, str(below)))

        yield from retried(ask)

    def exists(self, key: str) -> bool:
        """Say whether an object is there."""
        path = self._path(key)

        def ask() -> bool:
            with _told(path, "look for"):
                return path.is_file()

        return retried(ask)

    def remove_leftovers(self, older_than_s: float) -> int:
        """Remove temporary files of writers that died; returns how many there were.

        A writer that lives is never so old: it writes one object and renames it.
        """
        root = Path(self.url)
        with _told(root, "clean up"):
            found = [path for path in _files(root) if path.name.endswith(TEMPORARY_SUFFIX)
                     and time.time() - path.stat().st_mtime > older_than_s]  # fmt: skip
            for path in found:
                path.unlink(missing_ok=True)
        return len(found)

    @contextmanager
    def _opened(self, key: str) -> Iterator[BufferedReader]:
        path = self._path(key) if self._is_new(key) else f"{self.url}/{key}"
        with _told(path, "read"), open_plain(str(path)) as file:
            yield file

    def _read_at_once(self, key: str, limit: int) -> bytes | None:
        """Return a small plain file's bytes in few calls; None where anything is unusual."""
        check_key(key)
        path = f"{self.url}/{key}"
        if key.rpartition("/")[0] not in self._known:
            return None
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                told = os.fstat(handle)
                small = told.st_size <= min(limit, _SMALL_BYTES) and stat.S_ISREG(told.st_mode)
                raw = os.read(handle, told.st_size + 1) if small else b""
            finally:
                os.close(handle)
        except OSError:
            return None
        return raw if small and len(raw) == told.st_size else None

    def _is_new(self, key: str) -> bool:
        """Say whether a name must be looked at closely; folders are remembered, links are not."""
        check_key(key)
        folder = key.rpartition("/")[0]
        if folder not in self._known:
            self._place(key)
            self._known.add(folder)
        return os.path.islink(f"{self.url}/{key}")

    def _path(self, key: str) -> Path:
        """Return where an object lies; raises StoreError where that is outside of the folder."""
        path = self._place(key)
        if path.is_symlink() and not self._inside(path):
            raise StoreError(f"{path} is a link that leads out of the store; it is not followed")
        return path

    def _place(self, key: str) -> Path:
        """Return where an object is put; a link of that name is written over, not followed."""
        path = Path(self.url, check_key(key))
        if not self._inside(path.parent):
            raise StoreError(f"{path} lies behind a link that leads out of the store")
        return path

    def _inside(self, path: Path) -> bool:
        root, real = os.path.realpath(self.url), os.path.realpath(path)
        return real == root or real.startswith(root.rstrip("/") + "/")

    def _link(self, path: Path, parts: Parts) -> bool:
        if os.path.lexists(path):
            return False
        with self._temporary(path, parts) as temporary:
            for give_name in (os.link, _rename_to_new, _claim):
                try:
                    give_name(temporary, path)
                    break
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in _UNKNOWN or give_name is _claim:
                        raise
            sync(path.parent)
        return True

    @contextmanager
    def _temporary(self, path: Path, parts: Parts) -> Iterator[Path]:
        """Give a durable file beside `path`, and remove its name in the end."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        try:
            self._write_temporary(temporary, parts)
            yield temporary
        finally:
            with suppress(OSError):  # a leftover, which `verify --repair` removes in time
                temporary.unlink()

    def _write_temporary(self, temporary: Path, parts: Parts) -> None:
        try:
            make_folders(temporary.parent)
        except (FileNotFoundError, NotADirectoryError) as error:  # /proc, a file in the way
            raise StoreError(
                f"{self.url}: a folder cannot be made there: {error.strerror}; choose another place"
            ) from error
        write_new(temporary, parts)


@contextmanager
def _told(path: Path | str, doing: str) -> Iterator[None]:
    """Turn a disk's errors into ours, but for names that are not there."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if is_transient(error):
            raise TransientError(f"{path}: cannot {doing}: {reason}") from error
        remedy = {
            errno.ENOSPC: "free some space and run the same command again",
            errno.EDQUOT: "free some of your quota and run the same command again",
            errno.EROFS: "choose a place that can be written",
            errno.EACCES: "choose a place that you may use",
            errno.EPERM: "choose a place that you may use",
        }.get(error.errno or 0, "run the same command again when it is mended")
        raise StoreError(
            f"{path}: cannot {doing}: {reason}; nothing committed is lost; {remedy}"
        ) from error


def _files(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder."""
    for place, names in _walk(str(folder)):
        yield from (Path(place, name) for name in names)


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder with its files; one that cannot be listed is an error, not empty."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for place, _, names in os.walk(folder, onerror=failed):
        yield place, names


def _names(root: str, folder: str) -> Iterator[str]:
    """Yield the name of every file below a folder as seen from `root`, with "/" between parts."""
    start = len(root.rstrip(os.sep)) + 1
    for place, names in _walk(folder):
        before = place.rstrip(os.sep)[start:].replace(os.sep, "/")
        yield from (f"{before}/{name}" if before else name for name in names)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Rename a file where the name is free (FAT has no links); raises OSError where it is not."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError as error:
        raise OSError(errno.ENOSYS, "this system has no renameat2") from error
    names = os.fsencode(temporary), os.fsencode(path)
    if renameat2(_HERE, names[0], _HERE, names[1], _NO_REPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def _claim(temporary: Path, path: Path) -> None:
    """Let an empty file take the name, then rename: where neither of the other two is known.

    What a writer leaves that dies in between is damaged: nobody believes it, `verify --repair`
    takes it back.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.rename(temporary, path)
