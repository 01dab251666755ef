"""A commit record: what a unit's shards are and which scenes they hold, vouching for itself.

A record says nothing of when, where or by whom. Its last member is the hash of all that stands
before it; `FORMAT.md` lists every member. Files are the business of `records`.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store import schema
from vega3d.pipeline.store.identity import FORMAT_VERSION, canonical_json, sha256_of
from vega3d.pipeline.store.names import MAX_NAME_BYTES, MAX_PUT_BYTES, check_key, check_text

MAX_RECORD_BYTES = 2**28
MAX_FAILURE_BYTES = 4096

_LATER: Mapping[str, Any] = {"repeated_views": 0}
"""Members of a scene that records of the first stores lack, and what they mean there."""

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

    world_from_camera: bytes = b""
    """Of each view, packed; see `pack_matrices`. Base64 in the text."""

    intrinsics: bytes = b""
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
_MATRICES = ("world_from_camera", "intrinsics")
_MEMBERS_OF_SCENE = tuple(f.name for f in fields(SceneRecord))


def _plain(scene: SceneRecord) -> dict[str, Any]:
    """Return what a record holds of a scene: members that came later where they say something."""
    found = {name: getattr(scene, name) for name in _MEMBERS_OF_SCENE}
    for name in _MATRICES:
        found[name] = base64.b64encode(found[name]).decode()
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


_Side = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_PerView = Meta(max_length=schema.MAX_VIEWS)


class _ObjectText(msgspec.Struct, forbid_unknown_fields=True):
    """What stands in a record's text of an object, checked while it is parsed."""

    sha256: schema.Sha256
    size: Annotated[int, Meta(ge=0, le=MAX_PUT_BYTES)]


class _SceneText(msgspec.Struct, forbid_unknown_fields=True):
    """The same of a scene."""

    scene_id: str
    row: schema.Place
    failure: str
    content_sha256: Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
    view_ids: Annotated[tuple[str, ...], _PerView]
    image_size: Annotated[tuple[tuple[_Side, _Side], ...], _PerView]
    world_from_camera: bytes
    intrinsics: bytes
    dropped_views: schema.Count
    repeated_views: schema.Count = 0


class _RecordText(msgspec.Struct, forbid_unknown_fields=True):
    """The same of the record."""

    format: int
    kind: Literal["commit", "revoke"]
    unit: schema.Place
    sequence: schema.Count
    objects: Annotated[dict[str, _ObjectText], Meta(max_length=4096)]
    scenes: Annotated[list[_SceneText], Meta(max_length=schema.MAX_SCENES)]
    environment: Any
    digest: schema.Sha256


_DECODER = msgspec.json.Decoder(_RecordText)


def parse_record(raw: bytes, what: str) -> Record:
    """Return a record of this format; raises SchemaError where anything is not as it must be."""
    if len(raw) > MAX_RECORD_BYTES:
        raise schema.SchemaError(f"{what} has {len(raw)} bytes, and may have {MAX_RECORD_BYTES}")
    found = schema.parse(_DECODER, unsealed(raw, what), what)
    if found.format != FORMAT_VERSION:
        raise schema.SchemaError(f"{what} is of another format than its store")
    return Record(
        kind=found.kind,
        unit=found.unit,
        sequence=found.sequence,
        objects={
            check_key(key): ObjectRecord(sha256=entry.sha256, size=entry.size)
            for key, entry in found.objects.items()
        },
        scenes=[_scene(scene, f"{what}: scene {i}") for i, scene in enumerate(found.scenes)],
        environment=schema.plain(found.environment, f"{what}: environment"),
        digest=found.digest,
        text=raw,
    )


def stack_matrices(matrices: Sequence[np.ndarray | None], size: int) -> np.ndarray:
    """Return matrices as a store keeps them, float64 [V, size, size]; NaN where one is not known.

    Args:
        matrices: One of numbers that are not all finite is not known, either.
        size: Rows and columns of each.
    """
    found = np.full((len(matrices), size, size), np.nan)
    for matrix, out in zip(matrices, found, strict=True):
        if matrix is not None and np.isfinite(matrix).all():
            out[:] = matrix
    return found


def pack_matrices(matrices: np.ndarray | None) -> bytes:
    """Return matrices as little-endian float64, nothing where not one is known.

    Args:
        matrices: [V, n, n]; one that is not finite is unknown and kept as NaN.
    """
    if matrices is None:
        return b""
    values = np.array(matrices, dtype="<f8")
    unknown = ~np.isfinite(values).all(axis=(1, 2))
    values[unknown] = np.nan
    return b"" if unknown.all() else values.tobytes()


def unpack_matrices(packed: bytes, count: int, size: int) -> np.ndarray:
    """Return `count` matrices of size x size, float64 [V, size, size]; NaN where unknown."""
    if not packed:
        return np.full((count, size, size), np.nan)
    return np.frombuffer(packed, dtype="<f8").reshape(count, size, size).copy()


def _scene(scene: _SceneText, what: str) -> SceneRecord:
    """Return a scene of which lengths, names and matrices are right as well."""
    views = len(scene.view_ids)
    if len(scene.image_size) != views:
        raise schema.SchemaError(f"{what}: {len(scene.image_size)} image sizes for {views} views")
    schema.text(scene.failure, f"{what}: failure", MAX_FAILURE_BYTES)
    _name(scene.scene_id, f"{what}: scene_id")
    _check_names(scene.view_ids, f"{what}: view_ids")
    _check_packed(scene.world_from_camera, views, 4, what)
    _check_packed(scene.intrinsics, views, 3, what)
    return SceneRecord(
        scene_id=scene.scene_id,
        row=scene.row,
        failure=scene.failure,
        content_sha256=scene.content_sha256,
        view_ids=scene.view_ids,
        image_size=scene.image_size,
        world_from_camera=scene.world_from_camera,
        intrinsics=scene.intrinsics,
        dropped_views=scene.dropped_views,
        repeated_views=scene.repeated_views,
    )


def _check_names(names: Sequence[str], what: str) -> None:
    """Look at names all at once where none can be too long, else one by one to say which is."""
    if max(map(len, names), default=0) * 4 <= MAX_NAME_BYTES:
        try:
            check_text(what, "".join(names), schema.MAX_DOCUMENT_BYTES)
        except (StoreError, UnicodeEncodeError):
            pass
        else:
            return
    for name in names:
        _name(name, what)


def _name(value: object, what: str) -> str:
    try:
        return check_text(what, schema.text(value, what))
    except schema.SchemaError:
        raise
    except StoreError as error:
        raise schema.SchemaError(str(error)) from error


def _check_packed(packed: bytes, views: int, size: int, what: str) -> None:
    """Raise SchemaError unless these are so many matrices, or none."""
    wanted = views * size * size * 8
    if packed and len(packed) != wanted:
        raise schema.SchemaError(f"{what}: matrices of {len(packed)} bytes, which must be {wanted}")
