"""Durable, create-only objects in a folder or a bucket: what the store is written through.

A folder object is written under a temporary name, in parts, then fsynced, linked to its name
(which fails where the name is taken) and the folder fsynced. A bucket object is ONE create-only
PUT. Reading arrays is zarr's business: `zarr_store` gives it the same place.
"""

import errno
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vega3d.pipeline.errors import StoreError, TransientError
from vega3d.pipeline.local_files import read_plain
from vega3d.pipeline.remote import RefusedError, Remote
from vega3d.pipeline.transient import is_transient, retried

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

Parts = Sequence[bytes | memoryview]

TEMPORARY_SUFFIX = ".partial"
MAX_PUT_BYTES = 5 * 2**30
"""The largest single PUT that S3 takes."""


class Objects(Protocol):
    """Named byte strings below one place."""

    @property
    def url(self) -> str:
        """The place."""
        ...

    def read(self, key: str) -> bytes:
        """Return an object's bytes; raises FileNotFoundError."""
        ...

    def create(self, key: str, parts: Parts) -> bool:
        """Write a new object durably; False, with nothing changed, where the name is taken."""
        ...

    def replace(self, key: str, parts: Parts) -> None:
        """Write an object durably, over an older one if there is one."""
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
                # No hard links here (FAT, some FUSE mounts): the last of two writers wins. A loser
                # notices when its commit record is refused, and checks the shards (writer._heal).
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

    def create(self, key: str, parts: Parts) -> bool:
        """Write a new object in one PUT; False, with nothing changed, where the name is taken."""
        with _refused(self.url):
            return Remote(self.url).create(key, b"".join(parts))

    def replace(self, key: str, parts: Parts) -> None:
        """Write an object in one PUT, over an older one if there is one."""
        with _refused(self.url):
            Remote(self.url).replace(key, b"".join(parts))

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
