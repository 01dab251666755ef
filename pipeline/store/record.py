"""A commit record: what a unit's shards are and which scenes they hold, vouching for itself.

A record says nothing of when, where or by whom. Its last member is the hash of all that stands
before it; `FORMAT.md` lists every member. Files are the business of `records`.
"""

import base64
import hashlib
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any, Literal

import numpy as np

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store import schema
from vega3d.pipeline.store.identity import FORMAT_VERSION, canonical_json, sha256_of
from vega3d.pipeline.store.names import MAX_NAME_BYTES, MAX_PUT_BYTES, check_key, check_text

MAX_RECORD_BYTES = 2**28
MAX_FAILURE_BYTES = 4096

_LATER: Mapping[str, Any] = {"repeated_views": 0}
"""Members of a scene that records of the first stores lack, and what they mean there."""

_BASE64 = (string.ascii_letters + string.digits + "+/").encode()

_SEAL_OPENS = b',"sha256":"'
_SEAL_BYTES = len(_SEAL_OPENS) + 64 + 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneRecord:
    """What a commit says of one scene; `failure` is its reason, or "" where there are features."""

    scene_id: str
    row: int
    failure: str = ""
    content_sha256: str = ""
    view_ids: Sequence[str] = ()
    image_size: Sequence[tuple[int, int]] = ()
    """Height and width of each view's colour image, px."""

    world_from_camera: str = ""
    """Of each view, packed; see `pack_matrices`."""

    intrinsics: str = ""
    dropped_views: int = 0
    """Views left out: without a pose, repeated, or bad."""

    repeated_views: int = 0
    """Of these, those whose pixels and depth are those of a view before them. Came later: it is
    written where there are some, and records without it hold none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectRecord:
    """Checksum and size of one stored object."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The state of one unit. A `commit` makes its rows readable, a `revoke` takes them back."""

    kind: Literal["commit", "revoke"]
    unit: int
    sequence: int
    objects: Mapping[str, ObjectRecord] = field(default_factory=dict)
    """The unit's shards by their names, one of each unit array."""

    scenes: Sequence[SceneRecord] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    """What else changes the last bits: versions, instruction set, GPU."""

    digest: str = field(default="", compare=False)
    """Hash of what was stored, wherever it lies and however it came about."""

    text: bytes = field(default=b"", compare=False, repr=False)
    """What it was read from; empty where it was not."""

    def __post_init__(self) -> None:
        """Compute the digest where none was read."""
        if not self.digest:
            object.__setattr__(self, "digest", content_digest(self))

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the shards that are not at their place in Zarr's grid."""
        return tuple(key for key in self.objects if "/c" not in key)

    @property
    def stored_bytes(self) -> int:
        """Size of the unit's shards."""
        return sum(entry.size for entry in self.objects.values())

    def to_json(self) -> bytes:
        """Return the one text of this record."""
        document = {name: getattr(self, name) for name in _MEMBERS_OF_RECORD}
        document["objects"] = _plain_objects(self.objects)
        document["scenes"] = [_plain(scene) for scene in self.scenes]
        return sealed(canonical_json({"format": FORMAT_VERSION, **document}))


def content_digest(record: Record) -> str:
    """Return the sha256 of a record without its sequence, environment and objects' names."""
    named = _plain_objects(record.objects)
    shards = {key.split("/")[0]: entry for key, entry in named.items()}
    scenes = [_plain(scene) for scene in record.scenes]
    return sha256_of([canonical_json({"unit": record.unit, "shards": shards, "scenes": scenes})])


_MEMBERS_OF_RECORD = tuple(f.name for f in fields(Record) if f.name != "text")
_MEMBERS_OF_SCENE = tuple(f.name for f in fields(SceneRecord))


def _plain(scene: SceneRecord) -> dict[str, Any]:
    """Return what a record holds of a scene: members that came later where they say something."""
    found = {name: getattr(scene, name) for name in _MEMBERS_OF_SCENE}
    return {
        name: value for name, value in found.items() if name not in _LATER or value != _LATER[name]
    }


def _plain_objects(objects: Mapping[str, ObjectRecord]) -> dict[str, dict[str, Any]]:
    return {key: {"sha256": entry.sha256, "size": entry.size} for key, entry in objects.items()}


def sealed(document: bytes) -> bytes:
    """Return the text of a JSON object with its hash as the last member."""
    return b"".join(
        [document[:-1], _SEAL_OPENS, hashlib.sha256(document).hexdigest().encode(), b'"}']
    )


def unsealed(raw: bytes, what: str) -> bytes:
    """Return the text without its last member; raises SchemaError where that is not its hash."""
    document = raw[:-_SEAL_BYTES] + b"}"
    seal = b"".join([_SEAL_OPENS, hashlib.sha256(document).hexdigest().encode(), b'"}'])
    if len(raw) <= _SEAL_BYTES or raw[-_SEAL_BYTES:] != seal:
        raise schema.SchemaError(f"{what} does not match its own hash")
    return document


def parse_record(raw: bytes, what: str) -> Record:
    """Return a record of this format; raises SchemaError where anything is not as it must be."""
    if len(raw) > MAX_RECORD_BYTES:
        raise schema.SchemaError(f"{what} has {len(raw)} bytes, and may have {MAX_RECORD_BYTES}")
    document = schema.load(unsealed(raw, what), what)
    document = schema.members(document, what, ("format", *_MEMBERS_OF_RECORD))
    if document["format"] != FORMAT_VERSION:
        raise schema.SchemaError(f"{what} is of another format than its store")
    if document["kind"] not in ("commit", "revoke"):
        raise schema.SchemaError(f"{what}: kind must be commit or revoke")
    shards = document["objects"]
    if not isinstance(shards, dict) or len(shards) > 4096:
        raise schema.SchemaError(f"{what}: objects must be an object of at most 4096 members")
    scenes = schema.items(document["scenes"], f"{what}: scenes", schema.MAX_SCENES)
    return Record(
        kind=document["kind"],
        unit=schema.whole(document["unit"], f"{what}: unit", 0, schema.MAX_SCENES),
        sequence=schema.whole(document["sequence"], f"{what}: sequence"),
        objects={check_key(key): _object(value, f"{what}: {key}") for key, value in shards.items()},
        scenes=[_scene(scene, f"{what}: scene {i}") for i, scene in enumerate(scenes)],
        environment=schema.plain(document["environment"], f"{what}: environment"),
        digest=schema.sha256_text(document["digest"], f"{what}: digest"),
        text=raw,
    )


def pack_matrices(matrices: np.ndarray | None) -> str:
    """Return matrices as base64 of little-endian float64, "" where not one is known.

    Args:
        matrices: [V, n, n]; one that is not finite is unknown and kept as NaN.
    """
    if matrices is None:
        return ""
    values = np.array(matrices, dtype="<f8")
    unknown = ~np.isfinite(values).all(axis=(1, 2))
    values[unknown] = np.nan
    return "" if unknown.all() else base64.b64encode(values.tobytes()).decode()


def unpack_matrices(packed: str, count: int, size: int) -> np.ndarray:
    """Return `count` matrices of size x size, float64 [V, size, size]; NaN where unknown."""
    if not packed:
        return np.full((count, size, size), np.nan)
    return np.frombuffer(base64.b64decode(packed), dtype="<f8").reshape(count, size, size).copy()


def _object(value: object, what: str) -> ObjectRecord:
    entry = schema.members(value, what, ("sha256", "size"))
    return ObjectRecord(
        sha256=schema.sha256_text(entry["sha256"], f"{what}: sha256"),
        size=schema.whole(entry["size"], f"{what}: size", 0, MAX_PUT_BYTES),
    )


def _scene(value: object, what: str) -> SceneRecord:
    if isinstance(value, dict):
        value = {**_LATER, **value}
    scene = schema.members(value, what, _MEMBERS_OF_SCENE)
    views = schema.items(scene["view_ids"], f"{what}: view_ids", schema.MAX_VIEWS)
    sizes = schema.items(scene["image_size"], f"{what}: image_size", schema.MAX_VIEWS)
    if len(sizes) != len(views):
        raise schema.SchemaError(f"{what}: {len(sizes)} image sizes for {len(views)} views")
    _check_sizes(sizes, what)
    return SceneRecord(
        scene_id=_name(scene["scene_id"], f"{what}: scene_id"),
        row=schema.whole(scene["row"], f"{what}: row", 0, schema.MAX_SCENES),
        failure=schema.text(scene["failure"], f"{what}: failure", MAX_FAILURE_BYTES),
        content_sha256=schema.sha256_text(scene["content_sha256"], what, empty=True),
        view_ids=_names(views, f"{what}: view_ids"),
        image_size=tuple(map(tuple, sizes)),
        world_from_camera=_packed(scene["world_from_camera"], len(views), 4, what),
        intrinsics=_packed(scene["intrinsics"], len(views), 3, what),
        dropped_views=schema.whole(scene["dropped_views"], f"{what}: dropped_views"),
        repeated_views=schema.whole(scene["repeated_views"], f"{what}: repeated_views"),
    )


def _check_sizes(sizes: Sequence[Any], what: str) -> None:
    """Raise SchemaError unless each is a height and a width.

    Records hold so many of them that they are looked at all at once, and one by one only to say
    which is wrong.
    """
    if set(map(type, sizes)) <= {list} and set(map(len, sizes)) <= {2}:
        sides = [*chain.from_iterable(sizes)]
        if set(map(type, sides)) <= {int} and (not sides or 0 <= min(sides) <= max(sides) < 2**31):
            return
    for size in sizes:
        pair = schema.items(size, f"{what}: image_size", 2)
        for side in pair:
            schema.whole(side, f"{what}: image_size", 0, 2**31 - 1)
        if len(pair) != 2:
            raise schema.SchemaError(f"{what}: an image size has two sides")


def _names(values: Sequence[object], what: str) -> tuple[str, ...]:
    """Return names, looked at all at once where none can be too long."""
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) == len(values) and max(map(len, texts), default=0) * 4 <= MAX_NAME_BYTES:
        try:
            check_text(what, "".join(texts), schema.MAX_DOCUMENT_BYTES)
        except (StoreError, UnicodeEncodeError):
            pass  # one by one, to say which
        else:
            return tuple(texts)
    return tuple(_name(value, what) for value in values)


def _name(value: object, what: str) -> str:
    try:
        return check_text(what, schema.text(value, what))
    except schema.SchemaError:
        raise
    except StoreError as error:
        raise schema.SchemaError(str(error)) from error


def _packed(value: object, views: int, size: int, what: str) -> str:
    packed = schema.text(value, what, 2**31)
    if packed:
        wanted = views * size * size * 8
        digits = packed.rstrip("=")
        padding = len(packed) - len(digits)
        # Told without decoding: a store has millions, and whoever wants the matrices decodes them.
        odd = len(packed) % 4 or padding > 2 or not packed.isascii()
        if odd or digits.encode().translate(None, _BASE64):
            raise schema.SchemaError(f"{what}: matrices that are no base64")
        if (held := len(packed) // 4 * 3 - padding) != wanted:
            raise schema.SchemaError(f"{what}: matrices of {held} bytes, which must be {wanted}")
    return packed
