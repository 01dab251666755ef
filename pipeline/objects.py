"""Durable, create-only objects in a folder or a bucket: what the store is written through.

A folder object is written under a temporary name, in parts, then fsynced, linked to its name
(which fails where the name is taken) and the folder fsynced. A bucket object is ONE create-only
PUT. Reading arrays is zarr's business: `zarr_store` gives it the same place.
"""

import errno
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vega3d.pipeline.errors import StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

Parts = Sequence[bytes | memoryview]

TEMPORARY_SUFFIX = ".partial"
MAX_PUT_BYTES = 5 * 2**30
"""The largest single PUT that S3 takes."""

_log = logging.getLogger(__name__)


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

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is no error."""
        ...


def open_objects(url: str) -> Objects:
    """Return the objects at a folder (created when first written) or a bucket's URL."""
    if "://" in url and not url.startswith("file://"):
        return BucketObjects(url)
    return FolderObjects(str(Path(url.removeprefix("file://")).expanduser()))


def zarr_store(url: str) -> "ZarrStore":
    """Return zarr's own read-only store for the same place."""
    from zarr.storage import LocalStore, ObjectStore

    objects = open_objects(url)
    if isinstance(objects, BucketObjects):
        return ObjectStore(objects.bucket(), read_only=True)
    return LocalStore(objects.url, read_only=True)


@dataclass(frozen=True, slots=True)
class FolderObjects:
    """Objects as files below a folder."""

    url: str

    def read(self, key: str) -> bytes:
        """Return an object's bytes; raises FileNotFoundError."""
        return Path(self.url, key).read_bytes()

    def create(self, key: str, parts: Parts) -> bool:
        """Write a new object durably; False, with nothing changed, where the name is taken."""
        path = Path(self.url, key)
        if path.exists():
            return False
        temporary = self._write_temporary(path, parts)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Somebody tidied our temporary file away: only done once the unit is committed.
            if path.exists():
                return False
            raise
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise _refused(path, error) from error
            # No hard links here (FAT, some FUSE mounts). Content is the same for every writer.
            os.rename(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        _sync_folder(path.parent)
        return True

    def replace(self, key: str, parts: Parts) -> None:
        """Write an object durably, over an older one if there is one."""
        path = Path(self.url, key)
        os.replace(self._write_temporary(path, parts), path)
        _sync_folder(path.parent)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names below `prefix`, sorted."""
        root = Path(self.url)
        found = (path for path in (root / prefix).rglob("*") if path.is_file())
        yield from sorted(path.relative_to(root).as_posix() for path in found)

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is no error."""
        Path(self.url, key).unlink(missing_ok=True)

    def _write_temporary(self, path: Path, parts: Parts) -> str:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        written = False
        try:
            _make_folders(path.parent)
            with temporary.open("xb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            written = True
        except OSError as error:
            raise _refused(path, error) from error
        finally:
            if not written:
                with suppress(OSError):  # a read-only place has nothing to remove
                    temporary.unlink()
        return str(temporary)


@dataclass(frozen=True, slots=True)
class BucketObjects:
    """Objects in a bucket; credentials and endpoint come from the environment (AWS_...)."""

    url: str

    def bucket(self) -> Any:  # noqa: ANN401 - one of obstore's store classes
        """Return obstore's handle, one a process; kept outside so that this value is picklable."""
        return _bucket(self.url)

    def read(self, key: str) -> bytes:
        """Return an object's bytes; raises FileNotFoundError."""
        return bytes(self.bucket().get(key).bytes())

    def create(self, key: str, parts: Parts) -> bool:
        """Write a new object in one PUT; False, with nothing changed, where the name is taken."""
        from obstore.exceptions import AlreadyExistsError

        try:
            self._put(key, parts, "create")
        except AlreadyExistsError:
            return False
        return True

    def replace(self, key: str, parts: Parts) -> None:
        """Write an object in one PUT, over an older one if there is one."""
        self._put(key, parts, "overwrite")

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names below `prefix`, sorted."""
        pages = self.bucket().list(prefix.rstrip("/") + "/")
        yield from sorted(item["path"] for page in pages for item in page)

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is no error."""
        self.bucket().delete(key)

    def _put(self, key: str, parts: Parts, mode: str) -> None:
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            self.bucket().put(key, b"".join(parts), mode=mode, use_multipart=False)
        except AlreadyExistsError:
            raise
        except BaseError as error:
            reason = str(error).splitlines()[0]
            raise StoreError(f"{self.url}/{key}: cannot write: {reason}") from error


@lru_cache(maxsize=16)
def _bucket(url: str) -> Any:  # noqa: ANN401 - one of obstore's store classes
    from obstore.store import from_url

    return from_url(url)


def _refused(path: Path, error: OSError) -> StoreError:
    reason = error.strerror or str(error)
    remedy = {
        errno.ENOSPC: "free some space and run the same command again",
        errno.EDQUOT: "free some of your quota and run the same command again",
        errno.EROFS: "choose a place that can be written",
        errno.EACCES: "choose a place that you may write",
        errno.EPERM: "choose a place that you may write",
    }.get(error.errno or 0, "run the same command again when it is mended")
    return StoreError(f"{path}: cannot write: {reason}; nothing committed is lost; {remedy}")


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
