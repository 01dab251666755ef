"""Durable, create-only objects in a folder or a bucket: what the store is written through.

A folder object is written under a temporary name, in parts, then fsynced, linked to its name
(which fails where the name is taken) and the folder fsynced. A bucket object is ONE create-only
PUT. `zarr_store` gives zarr the same place.
"""

import errno
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vega3d.pipeline.errors import StoreError, TransientError
from vega3d.pipeline.local_files import open_plain, read_plain
from vega3d.pipeline.remote import RefusedError, Remote
from vega3d.pipeline.transient import is_transient, retried

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

Parts = Sequence[bytes | memoryview]

TEMPORARY_SUFFIX = ".partial"
MAX_PUT_BYTES = 5 * 2**30
"""The largest single PUT that S3 takes."""

_READERS = 16
"""Requests for the pieces of one object of a bucket at a time."""


class Objects(Protocol):
    """Named byte strings below one place."""

    @property
    def url(self) -> str:
        """The place."""
        ...

    def read(self, key: str) -> bytes:
        """Return an object's bytes; raises FileNotFoundError."""
        ...

    def size(self, key: str) -> int:
        """Return an object's size; raises FileNotFoundError."""
        ...

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Return an object's last bytes, and its size; raises FileNotFoundError."""
        ...

    def read_parts(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return pieces of an object, each an offset and a length; raises FileNotFoundError."""
        ...

    def create(self, key: str, parts: Parts) -> bool:
        """Write a new object durably; False, with nothing changed, where the name is taken."""
        ...

    def replace(self, key: str, parts: Parts) -> None:
        """Write an object durably, over an older one if there is one."""
        ...

    def copy(self, key: str, other: str) -> None:
        """Give an object a second name, over what had that name; needs no second room if it can."""
        ...

    def same(self, key: str, other: str) -> bool:
        """Say whether two names are known to hold the same bytes; False where that is not known."""
        ...

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        ...

    def age_s(self, key: str) -> float:
        """Return the seconds since an object was written; raises FileNotFoundError."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names below `prefix`, sorted."""
        ...

    def exists(self, key: str) -> bool:
        """Say whether an object is there."""
        ...

    def remove_leftovers(self, older_than_s: float) -> int:
        """Remove temporary files of writers that died; returns how many there were."""
        ...


def open_objects(url: str) -> Objects:
    """Return the objects at a folder (created when first written) or a bucket's URL."""
    if "://" in url and not url.startswith("file://"):
        return BucketObjects(url)
    return FolderObjects(str(Path(url.removeprefix("file://")).expanduser()))


def zarr_store(url: str) -> "ZarrStore":
    """Return zarr's own read-only store for the same place."""
    from zarr.storage import LocalStore

    from vega3d.pipeline.store.zarr_bucket import bucket_store

    objects = open_objects(url)
    if isinstance(objects, BucketObjects):
        return bucket_store(objects.url)
    return LocalStore(objects.url, read_only=True)


@dataclass(frozen=True, slots=True)
class FolderObjects:
    """Objects as files below a folder."""

    url: str

    def read(self, key: str) -> bytes:
        """Return an object's bytes; raises FileNotFoundError."""
        path = Path(self.url, key)
        with _told(path, "read"):
            return read_plain(str(path), MAX_PUT_BYTES)

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
        path, unsure = Path(self.url, key), False

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
        path = Path(self.url, key)

        def ask() -> None:
            with _told(path, "write"), self._temporary(path, parts) as temporary:
                os.replace(temporary, path)
                _sync_folder(path.parent)

        retried(ask)

    def copy(self, key: str, other: str) -> None:
        """Give an object a second name, over what had that name: a hard link where there are."""
        path = Path(self.url, other)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        try:
            os.link(Path(self.url, key), temporary)
        except OSError:
            self.replace(other, [self.read(key)])
            return
        with _told(path, "write"):
            os.replace(temporary, path)
            temporary.unlink(missing_ok=True)  # renaming one of two names of a file does nothing
            _sync_folder(path.parent)

    def same(self, key: str, other: str) -> bool:
        """Say whether two names are known to hold the same bytes: they are one file."""
        with _told(Path(self.url, key), "look for"):
            return os.path.samefile(Path(self.url, key), Path(self.url, other))

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        path = Path(self.url, key)
        with _told(path, "remove"):
            path.unlink(missing_ok=True)

    def age_s(self, key: str) -> float:
        """Return the seconds since an object was written; raises FileNotFoundError."""
        path = Path(self.url, key)
        with _told(path, "look for"):
            return time.time() - path.lstat().st_mtime

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names below `prefix`, sorted."""
        root = Path(self.url)

        def ask() -> list[str]:
            with _told(root / prefix, "list"):
                return sorted(path.relative_to(root).as_posix() for path in _files(root / prefix))

        yield from retried(ask)

    def exists(self, key: str) -> bool:
        """Say whether an object is there."""
        path = Path(self.url, key)

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
        path = Path(self.url, key)
        with _told(path, "read"), open_plain(str(path)) as file:
            yield file

    def _link(self, path: Path, parts: Parts) -> bool:
        if path.exists():
            return False
        with self._temporary(path, parts) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise
                # No hard links here (FAT, some FUSE mounts): an empty file takes the name first.
                # What a writer leaves that dies right here is damaged, and nobody believes it.
                try:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                except FileExistsError:
                    return False
                os.rename(temporary, path)
            _sync_folder(path.parent)
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
        _make_folders(temporary.parent)
        with temporary.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class BucketObjects:
    """Objects in a bucket; credentials and endpoint come from the environment (AWS_...)."""

    url: str

    def read(self, key: str) -> bytes:
        """Return an object's bytes; raises FileNotFoundError."""
        with _refused(self.url):
            return Remote(self.url).read(key)

    def size(self, key: str) -> int:
        """Return an object's size; raises FileNotFoundError."""
        with _refused(self.url):
            return Remote(self.url).size_bytes(key)

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Return an object's last bytes, and its size; raises FileNotFoundError."""
        with _refused(self.url):
            size = Remote(self.url).size_bytes(key)
            count = min(length, size)
            return Remote(self.url).read_range(key, size - count, count) if count else b"", size

    def read_parts(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return pieces of an object, each an offset and a length; raises FileNotFoundError."""
        with _refused(self.url), ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(lambda span: Remote(self.url).read_range(key, *span), spans))

    def create(self, key: str, parts: Parts) -> bool:
        """Write a new object in one PUT; False, with nothing changed, where the name is taken."""
        with _refused(self.url):
            return Remote(self.url).create(key, b"".join(parts))

    def replace(self, key: str, parts: Parts) -> None:
        """Write an object in one PUT, over an older one if there is one."""
        with _refused(self.url):
            Remote(self.url).replace(key, b"".join(parts))

    def copy(self, key: str, other: str) -> None:
        """Write an object under a second name, over what had that name."""
        self.replace(other, [self.read(key)])

    def same(self, key: str, other: str) -> bool:
        """Return False: that is not known here."""
        return False

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        with _refused(self.url), suppress(FileNotFoundError):
            Remote(self.url).remove(key)

    def age_s(self, key: str) -> float:
        """Return the seconds since an object was written; raises FileNotFoundError."""
        with _refused(self.url):
            return Remote(self.url).age_s(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names below `prefix`, sorted."""
        with _refused(self.url):
            found = Remote(self.url).list_below(f"{prefix.rstrip('/')}/" if prefix else "")
        yield from found

    def exists(self, key: str) -> bool:
        """Say whether an object is there."""
        with _refused(self.url):
            return Remote(self.url).exists(key)

    def remove_leftovers(self, older_than_s: float) -> int:
        """Return 0: a PUT is there whole or not at all."""
        return 0


@contextmanager
def _refused(url: str) -> Iterator[None]:
    try:
        yield
    except RefusedError as error:
        raise StoreError(f"{error}; nothing committed is lost") from error


@contextmanager
def _told(path: Path, doing: str) -> Iterator[None]:
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
    """Yield every file below a folder; a folder that cannot be listed is an error, not empty."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for place, _, names in os.walk(folder, onerror=failed):
        yield from (Path(place, name) for name in names)


def _make_folders(folder: Path) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        _sync_folder(new.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
