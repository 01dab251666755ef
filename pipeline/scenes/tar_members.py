"""Names and headers of our WebDataset tars: what belongs to which view, and what is refused.

One sample a scene: `<scene>.cameras.json`, then `<scene>.<view>.color.jpg` (or .png) and
`<scene>.<view>.depth.png` of each view. WebDataset splits a name at its first dot and lower-cases
the rest, so both ids are percent-encoded, dots and capitals included. Members are never extracted
to disk; those with other names (pickles among them) are never opened.
"""

import io
import re
import tarfile
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

Kind = Literal["color", "depth", "cameras"]
INDEX_NAME = "index.json"
INDEX_FORMAT = "vega3d-tars-1"
MATRICES: dict[str, int] = {"K_color": 3, "K_depth": 3, "world_from_camera": 4}
"""Members of a view in cameras.json, and their sides."""

_NAME = re.compile(
    r"(?P<key>(?:.*/)?[^./]+)\."
    r"(?:(?P<view>[^./]+)\.(?:(?P<color>color)\.(?:jpg|jpeg|png)|depth\.png)|(?P<cameras>cameras\.json))",
    re.IGNORECASE,
)
_PLAIN = re.compile(rb"[a-z0-9_-]")
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar that belongs to a scene."""

    key: str
    """What precedes the first dot: all members of a scene share it."""

    kind: Kind
    view_id: str
    """"" for cameras."""

    start: int
    """Of its first header; positions count from the tar's beginning."""

    data: int
    size_bytes: int

    @property
    def end(self) -> int:
        """Position of the next member's header."""
        return self.data + -(-self.size_bytes // _BLOCK) * _BLOCK


def encode_id(text: str) -> str:
    """Percent-encode all but a-z, 0-9, - and _ (which WebDataset drops at the front of a name)."""
    raw = text.encode()
    plain = (b"" if i == 0 and byte == ord("_") else bytes([byte]) for i, byte in enumerate(raw))
    return "".join(
        one.decode() if _PLAIN.fullmatch(one) else f"%{byte:02x}"
        for one, byte in zip(plain, raw, strict=True)
    )


def decode_id(text: str) -> str:
    """Undo `encode_id`; raises ValueError where that gives no UTF-8."""
    return unquote_to_bytes(text).decode()


def scan_members(file: io.BufferedIOBase, where: str, *, end: int | None = None) -> list[Member]:
    """Read headers from the file's position to `end`, or to the mark that closes a tar.

    Args:
        file: Seekable, and open at a header.
        where: Names the tar in messages.
        end: Position where the last member must end; None reads the whole tar.

    Raises:
        ValueError: Truncated, damaged, or a member that no honest archive of scenes holds.
    """
    members, position = [], file.tell()
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (end is None or position < end) and (info := tar.next()) is not None:
                _check_harmless(info, where)
                if info.isreg() and (member := _parse(info)) is not None:
                    members.append(member)
                position = tar.offset
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{where}: truncated or no tar, at byte {position} ({error})") from error
    file.seek(position)
    is_closed = file.read(_BLOCK) == bytes(_BLOCK) if end is None else position == end
    if not is_closed:
        raise ValueError(
            f"{where}: truncated or damaged at byte {position}; fetch or pack it again"
        )
    return members


def _check_harmless(info: tarfile.TarInfo, where: str) -> None:
    if info.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", info.name):
        raise ValueError(
            f"{where}: member {info.name!r} points outside of the archive; do not trust this tar"
        )
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise ValueError(
            f"{where}: member {info.name!r} is a link, a device or another special file; a tar of "
            "scenes holds plain files only"
        )


def _parse(info: tarfile.TarInfo) -> Member | None:
    name = re.sub(r"^(\./+)+", "", info.name)  # `tar .` writes ./ before every name
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    kind: Kind = "cameras" if match["cameras"] else "color" if match["color"] else "depth"
    view_id = decode_id(match["view"]) if match["view"] else ""
    return Member(match["key"], kind, view_id, info.offset, info.offset_data, info.size)
