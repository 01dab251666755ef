"""Bytes of files, at a path or behind an http(s) or s3 URL, and lists of their names.

Credentials and endpoints of s3 come from the environment (AWS_...), as for the store.
"""

import fnmatch
import glob
import io
import os
from typing import Any

from vega3d.pipeline.local_files import open_plain, read_plain
from vega3d.pipeline.remote import Remote
from vega3d.pipeline.scenes.scene import natural_key
from vega3d.pipeline.texts import shown_url
from vega3d.pipeline.transient import retried_io

_SCHEMES = ("http://", "https://", "s3://")
_BLOCK_BYTES = 1 << 20
"""Bytes asked for at once while a remote tar's headers are scanned."""


def is_remote(url: str) -> bool:
    """Say whether this is a URL; raises ValueError for a scheme that is not known."""
    if "://" not in url:
        return False
    if not url.startswith(_SCHEMES):
        raise ValueError(
            f"{shown_url(url)}: scheme is not known; give a path or one of {', '.join(_SCHEMES)}"
        )
    return True


def read_range(url: str, start: int, size_bytes: int) -> bytes:
    """Return exactly that many bytes.

    Raises:
        FileNotFoundError: No such file.
        OSError: It ends earlier, or the server refuses.
        TransientError: The disk or the server does not answer.
    """
    if not is_remote(url):
        with open_plain(url) as file:
            file.seek(start)
            data = retried_io(url, lambda: file.read(size_bytes))
    elif size_bytes == 0:
        data = b""
    else:
        place, name = _remote(url)
        data = place.read_range(name, start, size_bytes)
    if len(data) != size_bytes:
        raise OSError(
            f"{shown_url(url)} is truncated: {size_bytes} bytes at {start} were asked for, "
            f"{len(data)} came"
        )
    return data


def read_all(url: str) -> bytes:
    """Return a whole (small) file; raises FileNotFoundError or another OSError."""
    if not is_remote(url):
        return read_plain(url)
    place, name = _remote(url)
    return place.read(name)


def open_file(url: str) -> io.BufferedIOBase:
    """Return a seekable file; a remote one is fetched in blocks where it is read."""
    if not is_remote(url):
        return open_plain(url)
    place, name = _remote(url)
    return io.BufferedReader(_RemoteFile(url, place.size_bytes(name)), buffer_size=_BLOCK_BYTES)


def list_names(pattern: str) -> list[str]:
    """Return the paths or s3 URLs that match a glob, in natural order."""
    if not is_remote(pattern):
        return sorted(glob.glob(os.path.expanduser(pattern)), key=natural_key)
    if not pattern.startswith("s3://"):
        raise ValueError(
            f"{shown_url(pattern)}: http cannot list files; name them, as {{000..009}}.tar"
        )
    folder, _, name = pattern.rpartition("/")
    if any(mark in folder for mark in "*?["):
        raise ValueError(f"{pattern}: only the last part of an s3 URL may have wildcards")
    names = sorted(Remote(folder).list_folder(), key=natural_key)
    return [f"{folder}/{one}" for one in names if fnmatch.fnmatch(one, name)]


class _RemoteFile(io.RawIOBase):
    """Just enough of a file for tarfile to hop from header to header."""

    def __init__(self, url: str, size_bytes: int) -> None:
        self._url, self._size_bytes, self._position = url, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[
            whence
        ]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        count = max(0, min(len(buffer), self._size_bytes - self._position))
        buffer[:count] = read_range(self._url, self._position, count)
        self._position += count
        return count


def _remote(url: str) -> tuple[Remote, str]:
    folder, _, name = url.rpartition("/")
    return Remote(folder), name
