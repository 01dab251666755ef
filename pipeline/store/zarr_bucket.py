"""zarr's way to a bucket, with errors that say what to do."""

from collections.abc import Iterable
from typing import Any, Self

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.remote import SILENCE_S, RefusedError, Remote, connected

_RETRIES = 6
"""obstore's own, with growing random pauses: reading is safe to ask again."""

_WHOLE_S = 3600.0


class BucketStore(ObjectStore[Any]):
    """Read-only arrays below a URL."""

    def __init__(self, store: Any, *, read_only: bool = True, url: str = "") -> None:  # noqa: ANN401
        """Use a handle of obstore's on `url`; `bucket_store` makes both."""
        super().__init__(store, read_only=read_only)
        self._remote = Remote(url)

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same place, to be written or not."""
        return type(self)(self.store, read_only=read_only, url=self._remote.url)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return bytes of an object, None where there is none."""
        try:
            with self._remote.told(key, "read"):
                return await super().get(key, prototype, byte_range)
        except RefusedError as error:
            raise StoreError(str(error)) from error

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return byte ranges of objects."""
        ranges = list(key_ranges)
        try:
            with self._remote.told(ranges[0][0] if ranges else "", "read"):
                return await super().get_partial_values(prototype, ranges)
        except RefusedError as error:
            raise StoreError(str(error)) from error


def bucket_store(url: str) -> BucketStore:
    """Return zarr's read-only store for a bucket's URL."""
    handle = connected(url, whole_s=_WHOLE_S, silence_s=SILENCE_S, retries=_RETRIES)
    return BucketStore(handle, url=url)
