"""A store's objects in a bucket: one create-only PUT each."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.remote import RefusedError, Remote
from vega3d.pipeline.store.names import MAX_PUT_BYTES, check_key

Parts = Sequence[bytes | memoryview]

_READERS = 16
"""Requests for the pieces of one object at a time."""


@dataclass(frozen=True, slots=True)
class BucketObjects:
    """Objects in a bucket; credentials and endpoint come from the environment (AWS_...)."""

    url: str

    def read(self, key: str, limit: int = MAX_PUT_BYTES) -> bytes:
        """Return an object's bytes, at most so many; raises FileNotFoundError."""
        with _refused(self.url):
            if limit < MAX_PUT_BYTES and (size := self.size(key)) > limit:
                raise StoreError(
                    f"{self.url}/{key} has {size} bytes, more than the {limit} that it may have"
                )
            return Remote(self.url).read(check_key(key))

    def size(self, key: str) -> int:
        """Return an object's size; raises FileNotFoundError."""
        with _refused(self.url):
            return Remote(self.url).size_bytes(check_key(key))

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Return an object's last bytes, and its size; raises FileNotFoundError."""
        with _refused(self.url):
            size = Remote(self.url).size_bytes(check_key(key))
            count = min(length, size)
            if not count:
                return b"", size
            return Remote(self.url).read_range(key, size - count, count), size

    def read_parts(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return pieces of an object, each an offset and a length; raises FileNotFoundError."""
        with _refused(self.url), ThreadPoolExecutor(_READERS) as pool:
            check_key(key)
            return list(pool.map(lambda span: Remote(self.url).read_range(key, *span), spans))

    def create(self, key: str, parts: Parts) -> bool:
        """Write a new object in one PUT; False, with nothing changed, where the name is taken."""
        with _refused(self.url):
            return Remote(self.url).create(check_key(key), b"".join(parts))

    def replace(self, key: str, parts: Parts) -> None:
        """Write an object in one PUT, over an older one if there is one."""
        with _refused(self.url):
            Remote(self.url).replace(check_key(key), b"".join(parts))

    def copy(self, key: str, other: str) -> None:
        """Write an object under a second name, over what had that name."""
        self.replace(other, [self.read(key)])

    def same(self, key: str, other: str) -> bool:
        """Return False: that is not known here."""
        return False

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        with _refused(self.url), suppress(FileNotFoundError):
            Remote(self.url).remove(check_key(key))

    def age_s(self, key: str) -> float:
        """Return the seconds since an object was written; raises FileNotFoundError."""
        with _refused(self.url):
            return Remote(self.url).age_s(check_key(key))

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names below `prefix`, sorted."""
        with _refused(self.url):
            found = Remote(self.url).list_below(f"{prefix.rstrip('/')}/" if prefix else "")
        yield from found

    def exists(self, key: str) -> bool:
        """Say whether an object is there."""
        with _refused(self.url):
            return Remote(self.url).exists(check_key(key))

    def remove_leftovers(self, older_than_s: float) -> int:
        """Return 0: a PUT is there whole or not at all."""
        return 0


@contextmanager
def _refused(url: str) -> Iterator[None]:
    try:
        yield
    except RefusedError as error:
        raise StoreError(f"{error}; nothing committed is lost") from error
