"""Durable, create-only objects in a folder or a bucket: what the store is written through.

`open_objects` gives either; `zarr_store` gives zarr the same place.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vega3d.pipeline.store.bucket import BucketObjects as BucketObjects
from vega3d.pipeline.store.folder import TEMPORARY_SUFFIX as TEMPORARY_SUFFIX
from vega3d.pipeline.store.folder import FolderObjects as FolderObjects
from vega3d.pipeline.store.folder import Parts as Parts
from vega3d.pipeline.store.names import MAX_PUT_BYTES as MAX_PUT_BYTES

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore


class Objects(Protocol):
    """Named byte strings below one place."""

    @property
    def url(self) -> str:
        """The place."""
        ...

    def read(self, key: str, limit: int = MAX_PUT_BYTES) -> bytes:
        """Return an object's bytes, at most so many; raises FileNotFoundError."""
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
