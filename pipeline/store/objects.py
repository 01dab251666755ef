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
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.local_files import open_plain

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

    def size(self, key: str) -> int:
        """Return an object's size; raises FileNotFoundError."""
        with open_plain(str(Path(self.url, key))) as file:
            return os.fstat(file.fileno()).st_size

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Return an object's last bytes, and its size; raises FileNotFoundError."""
        with open_plain(str(Path(self.url, key))) as file:
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), min(length, size), max(0, size - length)), size

    def read_parts(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return pieces of an object, each an offset and a length; raises FileNotFoundError."""
        with open_plain(str(Path(self.url, key))) as file:
            return [os.pread(file.fileno(), length, offset) for offset, length in spans]

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
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise _refused(path, error) from error
            # No hard links here (FAT, some FUSE mounts): the last of two writers wins. A loser
            # notices when its commit record is refused, and checks the shards (writer._heal).
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

    def copy(self, key: str, other: str) -> None:
        """Give an object a second name, over what had that name: a hard link where there are."""
        path = Path(self.url, other)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        try:
            os.link(Path(self.url, key), temporary)
        except OSError:
            self.replace(other, [self.read(key)])
            return
        os.replace(temporary, path)
        temporary.unlink(missing_ok=True)  # renaming onto another name of one file does nothing
        _sync_folder(path.parent)

    def same(self, key: str, other: str) -> bool:
        """Say whether two names are known to hold the same bytes: they are one file."""
        return os.path.samefile(Path(self.url, key), Path(self.url, other))

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        Path(self.url, key).unlink(missing_ok=True)

    def age_s(self, key: str) -> float:
        """Return the seconds since an object was written; raises FileNotFoundError."""
        return time.time() - Path(self.url, key).lstat().st_mtime

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names below `prefix`, sorted."""
        root = Path(self.url)
        found = (path for path in (root / prefix).rglob("*") if path.is_file())
        yield from sorted(path.relative_to(root).as_posix() for path in found)

    def exists(self, key: str) -> bool:
        """Say whether an object is there."""
        return Path(self.url, key).is_file()

    def remove_leftovers(self, older_than_s: float) -> int:
        """Remove temporary files of writers that died; returns how many there were.

        A writer that lives is never so old: it writes one object and renames it.
        """
        found = [path for path in Path(self.url).rglob(f"*{TEMPORARY_SUFFIX}")
                 if time.time() - path.stat().st_mtime > older_than_s]  # fmt: skip
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

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
        with self._errors(key, "read"):
            return bytes(self.bucket().get(key).bytes())

    def size(self, key: str) -> int:
        """Return an object's size; raises FileNotFoundError."""
        with self._errors(key, "look for"):
            return int(self.bucket().head(key)["size"])

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Return an object's last bytes, and its size; raises FileNotFoundError."""
        with self._errors(key, "read"):
            found = self.bucket().get(key, options={"range": {"suffix": length}})
            return bytes(found.bytes()), int(found.meta["size"])

    def read_parts(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return pieces of an object, each an offset and a length; raises FileNotFoundError."""
        if not spans:
            return []
        starts, lengths = zip(*spans, strict=True)
        with self._errors(key, "read"):
            found = self.bucket().get_ranges(key, starts=starts, lengths=lengths)
            return [bytes(part) for part in found]

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

    def copy(self, key: str, other: str) -> None:
        """Copy an object within the bucket, over what had that name."""
        with self._errors(other, "write"):
            self.bucket().copy(key, other, overwrite=True)

    def same(self, key: str, other: str) -> bool:
        """Say whether two names are known to hold the same bytes: their tags are equal."""
        with self._errors(key, "look for"):
            tags = [self.bucket().head(name).get("e_tag") for name in (key, other)]
        return tags[0] is not None and tags[0] == tags[1]

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError), self._errors(key, "remove"):
            self.bucket().delete(key)

    def age_s(self, key: str) -> float:
        """Return the seconds since an object was written; raises FileNotFoundError."""
        with self._errors(key, "look for"):
            return time.time() - float(self.bucket().head(key)["last_modified"].timestamp())

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names below `prefix`, sorted."""
        with self._errors(prefix, "list"):
            pages = self.bucket().list(prefix.rstrip("/") + "/")
            found = sorted(item["path"] for page in pages for item in page)
        yield from found

    def exists(self, key: str) -> bool:
        """Say whether an object is there."""
        try:
            with self._errors(key, "look for"):
                self.bucket().head(key)
        except FileNotFoundError:
            return False
        return True

    def remove_leftovers(self, older_than_s: float) -> int:
        """Return 0: a PUT is there whole or not at all."""
        return 0

    def _put(self, key: str, parts: Parts, mode: str) -> None:
        with self._errors(key, "write"):
            self.bucket().put(key, b"".join(parts), mode=mode, use_multipart=False)

    @contextmanager
    def _errors(self, key: str, doing: str) -> Iterator[None]:
        """Turn the service's errors into ours, but for names that are taken or not there."""
        from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError

        try:
            yield
        except AlreadyExistsError:
            raise
        except NotFoundError as error:
            raise FileNotFoundError(f"{self.url}/{key}") from error
        except BaseError as error:
            reason = str(error).splitlines()[0]
            raise StoreError(
                f"{self.url}/{key}: cannot {doing}: {reason}; look at the bucket's name and the "
                "AWS_... variables"
            ) from error


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
