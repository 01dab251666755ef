"""Requests to object stores and web servers: each bounded in time, told apart, and asked again.

obstore sends one request at a time for us (its own retries are off, for it never sends a PUT again
that it is not sure of, and reads a 409 as 'exists'); what to do after an error is decided here.
Credentials and endpoints come from the environment (AWS_...), an http password from ~/.netrc or the
URL.
"""

import math
import os
import re
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from vega3d.pipeline.errors import TransientError
from vega3d.pipeline.passwords import user_and_password
from vega3d.pipeline.texts import shown_url, without_secrets
from vega3d.pipeline.transient import retried

SILENCE_S = 30.0
"""A connection that gives nothing for so long is given up."""

SLOWEST_BYTES_PER_S = 50_000
"""Bodies may take SILENCE_S and their size at this rate: 4 MB take 110 s at most."""

_PIECE_BYTES = 8 << 20
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_PASSING = frozenset((408, 409, 425, 429))
_RESERVED_HOST = "169.254.169.254"
"""Where a machine in a cloud asks for credentials, when the environment has none."""


class RefusedError(OSError):
    """A server answers, and says no; the message says to what, and what can be done."""


@dataclass(frozen=True, slots=True)
class Remote:
    """The objects below one URL; picklable, the connections are the process's."""

    url: str

    def read(self, key: str) -> bytes:
        """Return an object's bytes.

        Raises:
            FileNotFoundError: There is none.
            RefusedError: The server says no.
            TransientError: It does not answer, still, after a while.
        """
        return retried(lambda: self._read(key, {}))

    def read_range(self, key: str, start: int, size_bytes: int) -> bytes:
        """Return the bytes from `start` on; fewer where the object ends. Raises as `read`."""
        wanted = {"range": (start, start + size_bytes)}
        return retried(lambda: self._read(key, wanted))

    def size_bytes(self, key: str) -> int:
        """Return an object's size. Raises as `read`."""

        def ask() -> int:
            with self.told(key, "look for"):
                return int(_reader(self.url).head(key)["size"])

        return retried(ask)

    def looks(self, key: str) -> str:
        """Return what changes with an object: etag, size and time of writing. Raises as `read`."""

        def ask() -> str:
            with self.told(key, "look for"):
                head = _reader(self.url).head(key)
                return f"{head['e_tag']} {head['size']} {head['last_modified'].timestamp()}"

        return retried(ask)

    def age_s(self, key: str) -> float:
        """Return the seconds since an object was written. Raises as `read`."""

        def ask() -> float:
            with self.told(key, "look for"):
                return time.time() - float(_reader(self.url).head(key)["last_modified"].timestamp())

        return retried(ask)

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""

        def ask() -> None:
            with self.told(key, "remove"):
                _reader(self.url).delete(key)

        retried(ask)

    def exists(self, key: str) -> bool:
        """Say whether an object is there. Raises as `read`."""
        try:
            self.size_bytes(key)
        except FileNotFoundError:
            return False
        return True

    def list_below(self, prefix: str) -> list[str]:
        """Return the keys below a prefix that ends in a slash, or all below ""; sorted."""

        def ask() -> list[str]:
            with self.told(prefix, "list"):
                pages = _reader(self.url).list(prefix or None)
                return sorted(item["path"] for page in pages for item in page)

        return retried(ask)

    def list_folder(self) -> list[str]:
        """Return the names of the objects directly below the URL, sorted."""

        def ask() -> list[str]:
            with self.told("", "list"):
                found = _reader(self.url).list_with_delimiter(None)["objects"]
                return sorted(item["path"].rpartition("/")[2] for item in found)

        return retried(ask)

    def replace(self, key: str, data: bytes) -> None:
        """Write an object in one PUT, over an older one if there is one."""

        def ask() -> None:
            with self.told(key, "write"):
                self._writer(data).put(key, data, mode="overwrite", use_multipart=False)

        retried(ask)

    def create(self, key: str, data: bytes) -> bool:
        """Write a new object in one PUT; False, with nothing changed, where the name is taken.

        A PUT whose answer was lost may have succeeded: where the name is then taken by the very
        bytes, they are taken to be ours.
        """
        unsure = False

        def ask() -> bool:
            nonlocal unsure
            try:
                with self.told(key, "create"):
                    self._writer(data).put(key, data, mode="create", use_multipart=False)
                return True
            except _TakenError as error:
                # Some answer 409 while another request is under way, some when the name is taken.
                if error.status == 409 and not self.exists(key):
                    raise TransientError(f"{self._shown(key)}: another writer is at work") from None
            except TransientError:
                unsure = True
                raise
            return unsure and self.read(key) == data

        return retried(ask)

    def _read(self, key: str, options: dict[str, Any]) -> bytes:
        with self.told(key, "read"):
            found = _reader(self.url).get(key, options=options)
            start, end = found.range
            ends_s = time.monotonic() + SILENCE_S + (end - start) / SLOWEST_BYTES_PER_S
            parts = []
            for part in found.stream(min_chunk_size=_PIECE_BYTES):
                parts.append(memoryview(part))
                if time.monotonic() > ends_s:
                    raise TransientError(f"{self._shown(key)}: comes too slowly")
        data = b"".join(parts)
        if len(data) != end - start:
            raise TransientError(f"{self._shown(key)}: the answer was cut short")
        return data

    def _writer(self, data: bytes) -> Any:  # noqa: ANN401 - one of obstore's store classes
        # Few different clients, each with its own connections: sizes are rounded up to 1, 2, 4 ...
        allowed_s = SILENCE_S + len(data) / SLOWEST_BYTES_PER_S
        doublings = math.ceil(math.log2(allowed_s / SILENCE_S))
        return _connected(self.url, SILENCE_S * 2**doublings, 0.0)

    def _shown(self, key: str) -> str:
        return f"{shown_url(self.url).rstrip('/')}/{key}"

    @contextmanager
    def told(self, key: str, doing: str) -> Iterator[None]:
        """Turn obstore's errors into those that `read` and `create` name.

        Args:
            key: Of what object, for the message.
            doing: `read`, `look for`, `list`, `write` or `create`.
        """
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            if doing == "create" and isinstance(error, AlreadyExistsError):
                raise _TakenError(_status(error) or 412) from error
            raise _told_apart(error, self._shown(key), doing, self.url) from error


class _TakenError(Exception):
    """A create-only PUT was refused."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _told_apart(error: Exception, where: str, doing: str, url: str) -> Exception:
    """Return what an error of obstore is for us: not there, refused, or passing."""
    from obstore.exceptions import NotSupportedError

    text, status = str(error), _status(error)
    code = f" {found[1]}" if (found := _CODE.search(text)) else ""
    if _RESERVED_HOST in text:
        told = "no credentials are found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif "NoSuchBucket" in text:
        told = "there is no such bucket; create it, or look at its name and at AWS_ENDPOINT"
    elif status == 404 or isinstance(error, FileNotFoundError):
        if doing in ("read", "look for"):
            return FileNotFoundError(f"{where}: there is no such object")
        told = "the server knows no such place (404); look at the URL and at AWS_ENDPOINT"
    elif status in (401, 403):
        told = f"the server does not allow it ({status}{code}); look at the {_keys(url)}"
    elif status is not None and (status in _PASSING or status >= 500) and status != 501:
        return TransientError(f"{where}: cannot {doing}: the server answers {status}{code}")
    elif status is not None:
        told = f"the server answers {status}{code}; look at {_settings(url)}"
    elif "redirect" in text:
        told = "the bucket lies in another region; set AWS_REGION to it"
    elif "BadScheme" in text:
        told = "AWS_ENDPOINT is no https; set AWS_ALLOW_HTTP=true to send keys in clear"
    elif "HTTP error" in text:
        slow = "Timeout" in text or "TimedOut" in text
        silent = "the answer was cut short" if "body error" in text else "the server is not reached"
        told = "it takes too long" if slow else silent
        return TransientError(f"{where}: cannot {doing}: {told}")
    elif isinstance(error, NotSupportedError):
        told = "the server does not serve byte ranges; use one that does, or copy the tars here"
    else:
        told = f"{without_secrets(text.splitlines()[0])}; look at {_settings(url)}"
    return RefusedError(f"{where}: cannot {doing}: {told}")


def _keys(url: str) -> str:
    return "URL's user and password" if url.startswith("http") else "rights and the AWS_... keys"


def _settings(url: str) -> str:
    return "the URL" if url.startswith("http") else "the bucket's name and the AWS_... variables"


def _reader(url: str) -> Any:  # noqa: ANN401 - one of obstore's store classes
    # The whole answer is timed where its size is known, in `_read`.
    return _connected(url, 24 * 3600.0, SILENCE_S)


@lru_cache(maxsize=64)
def _connected(url: str, whole_s: float, silence_s: float) -> Any:  # noqa: ANN401 - as above
    return connected(url, whole_s=whole_s, silence_s=silence_s, retries=0)


def connected(url: str, *, whole_s: float, silence_s: float, retries: int) -> Any:  # noqa: ANN401
    """Return obstore's handle on a URL.

    Args:
        url: Its user and password, or those of ~/.netrc, are sent as basic authentication.
        whole_s: Most seconds for a whole request with its body.
        silence_s: Most seconds between two pieces of an answer; 0 for no such limit, which a PUT
            needs, for it hears nothing while it sends.
        retries: obstore's own.
    """
    from obstore.store import from_url

    client: dict[str, Any] = {
        "timeout": timedelta(seconds=whole_s),
        "connect_timeout": timedelta(seconds=min(10.0, SILENCE_S)),
        "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1"),
    }
    if silence_s:
        client["read_timeout"] = timedelta(seconds=silence_s)
    settings: dict[str, Any] = {}
    if url.startswith("http"):
        parts = urlsplit(url)
        client["allow_http"] = url.startswith("http://")
        if who := user_and_password(parts):
            basic = b64encode(":".join(who).encode()).decode()
            client["default_headers"] = {"authorization": f"Basic {basic}"}
            url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    elif url.startswith(("s3://", "s3a://")) and "AWS_CHECKSUM_ALGORITHM" not in os.environ:
        settings["checksum_algorithm"] = "SHA256"  # the server compares what it got
    return from_url(url, client_options=client, retry_config={"max_retries": retries}, **settings)
