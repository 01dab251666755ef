"""The root of a store: what it was made from, and the rows it is planned to have.

The root's attributes carry their own digest, which names the row table's; a second copy of both is
written once, below the array `unit`, so that neither can be lost alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store import schema
from vega3d.pipeline.store.format_1 import LayoutOfFormat1
from vega3d.pipeline.store.identity import (
    FORMAT_VERSION,
    READABLE_FORMATS,
    canonical_json,
    config_digest,
    sha256_of,
)
from vega3d.pipeline.store.layout import PACKED, Layout
from vega3d.pipeline.store.metadata import ROOT
from vega3d.pipeline.store.names import MAX_PUT_BYTES, check_scene_ids, check_taps
from vega3d.pipeline.store.objects import Objects
from vega3d.pipeline.store.records import ROWS
from vega3d.pipeline.store.units import Plan, PlannedScene

COPY = "unit/copy.json"
"""Create-only: the root's attributes and the row table once more."""

_MAX_CHUNK_BYTES = 2**31
_MAX_INDEX_BYTES = 2**30
_RECORD_BYTES_A_VIEW = 300
"""Base64 of 25 float64, a size and an id, in JSON: measured 286."""

_DTYPES = ("float16", "float32", PACKED)
_MEMBERS = ("format", "identity", "config_digest", "rows_sha256", "scenes_per_shard", "numerics")


class _RowText(msgspec.Struct, forbid_unknown_fields=True):
    """A row of the table, checked while it is parsed."""

    scene_id: str
    source_views: schema.Count
    num_views: Annotated[int, Meta(ge=0, le=schema.MAX_VIEWS)]


_ROWS = msgspec.json.Decoder(Annotated[list[_RowText], Meta(max_length=schema.MAX_SCENES)])


@dataclass(frozen=True, slots=True)
class Root:
    """What a store is, checked."""

    attributes: Mapping[str, Any]
    """All of the root group's: ours are under `vega3d`."""

    layout: Layout

    @property
    def ours(self) -> dict[str, Any]:
        """What this store was made from."""
        return dict(self.attributes["vega3d"])

    @property
    def format(self) -> int:
        """Version of the format."""
        return int(self.ours["format"])

    @property
    def rows(self) -> bytes:
        """The row table's text."""
        return canonical_json(self.layout.plan.rows())

    @property
    def copy(self) -> bytes:
        """The text of the second copy."""
        rows = self.layout.plan.rows()
        return canonical_json({"attributes": dict(self.attributes), "rows": rows})


def new_root(plan: Plan, identity: Mapping[str, Any], numerics: Mapping[str, Any]) -> Root:
    """Return the root of a store that is to be made.

    Raises:
        StoreError: A name cannot be used, or a shard would be too large.
    """
    ours: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "identity": dict(identity),
        "config_digest": config_digest(identity),
        "rows_sha256": sha256_of([canonical_json(plan.rows())]),
        "scenes_per_shard": plan.scenes_per_shard,
        "numerics": dict(numerics),
    }
    layout = _layout(ours, plan, "the store's settings")
    attributes = {"vega3d": ours, "coordinates": layout.coordinates}
    attributes = {**attributes, "vega3d": {**ours, "attributes_sha256": _digest(attributes)}}
    root = Root(attributes, layout)
    _check_sizes(root.layout)
    return root


def read_root(objects: Objects) -> Root:
    """Read and check a store's root and row table.

    Raises:
        FileNotFoundError: There is no root.
        StoreError: It is no store of ours, of another version, or damaged; the message says which.
    """
    attributes = parse_attributes(_read(objects, ROOT), f"{objects.url}/{ROOT}")
    try:
        rows = _read(objects, ROWS)
    except FileNotFoundError as error:
        raise schema.SchemaError(f"{objects.url}/{ROWS} is gone") from error
    return _root(attributes, rows, f"{objects.url}/{ROWS}")


def read_copy(objects: Objects) -> Root:
    """Read and check the second copy; raises FileNotFoundError and SchemaError."""
    what = f"{objects.url}/{COPY}"
    document = schema.members(
        schema.load(_read(objects, COPY), what),
        what,
        ("attributes", "rows"),
    )
    attributes = _checked(document["attributes"], what)
    return _root(attributes, canonical_json(document["rows"]), what)


def parse_attributes(raw: bytes, what: str) -> dict[str, Any]:
    """Return the root group's attributes, checked.

    Raises:
        StoreError: It is a Zarr group of somebody else's, or of a format that is not known here.
        SchemaError: It is damaged.
    """
    document = schema.load(raw, what)
    if not isinstance(document, dict) or document.get("zarr_format") != 3:
        raise schema.SchemaError(f"{what} is no Zarr group of version 3")
    return _checked(document.get("attributes"), what)


def _read(objects: Objects, key: str) -> bytes:
    return objects.read(key, schema.MAX_DOCUMENT_BYTES)


def _checked(attributes: object, what: str) -> dict[str, Any]:
    schema.plain(attributes, what)
    if not isinstance(attributes, dict) or not isinstance(ours := attributes.get("vega3d"), dict):
        raise StoreError(f"{what}: not a vega3d store: its root has no vega3d attributes")
    if ours.get("format") not in READABLE_FORMATS:
        raise StoreError(
            f"{what}: a store of format {ours.get('format')}, and this version reads "
            f"{', '.join(map(str, READABLE_FORMATS))}; install the vega3d that wrote it, or a newer"
        )
    sealed = ("attributes_sha256",) if ours["format"] != 1 else ()
    schema.members(ours, f"{what}: vega3d", (*_MEMBERS, *sealed))
    if sealed:
        bare = {name: value for name, value in ours.items() if name not in sealed}
        if _digest({**attributes, "vega3d": bare}) != ours["attributes_sha256"]:
            raise schema.SchemaError(f"{what}: the attributes do not match their digest")
    schema.sha256_text(ours["rows_sha256"], f"{what}: rows_sha256")
    identity = ours["identity"]
    if not isinstance(identity, dict) or not isinstance(identity.get("config"), dict):
        raise schema.SchemaError(f"{what}: identity holds no config")
    if config_digest(identity) != ours["config_digest"]:
        raise schema.SchemaError(f"{what}: the config does not match its digest")
    if not isinstance(ours["numerics"], dict):
        raise schema.SchemaError(f"{what}: numerics must be an object")
    return attributes


def _digest(attributes: Mapping[str, Any]) -> str:
    return sha256_of([canonical_json(attributes)])


def _root(attributes: dict[str, Any], rows: bytes, what: str) -> Root:
    ours = attributes["vega3d"]
    if sha256_of([rows]) != ours["rows_sha256"]:
        raise schema.SchemaError(f"{what} does not match its digest in the root")
    if ours["format"] == 1:
        planned = schema.items(schema.load(rows, what), what, schema.MAX_SCENES)
        scenes = tuple(_of_format_1(row, ours, f"{what}: row {i}") for i, row in enumerate(planned))
    else:
        found = schema.parse(_ROWS, rows, what)
        scenes = tuple(PlannedScene(r.scene_id, r.source_views, r.num_views) for r in found)
    per_shard = schema.whole(ours["scenes_per_shard"], f"{what}: scenes_per_shard", 1, 2**20)
    return Root(attributes, _layout(ours, Plan(scenes, per_shard), what))


def _of_format_1(row: object, ours: Mapping[str, Any], what: str) -> PlannedScene:
    found = schema.members(row, what, ("scene_id", "num_views"))
    listed = schema.whole(found["num_views"], what, 0, schema.MAX_VIEWS)
    limit = schema.whole(ours["identity"]["config"].get("num_views", 0), what)
    kept = min(listed, limit) if limit else listed
    return PlannedScene(schema.text(found["scene_id"], what), listed, kept)


def _layout(ours: Mapping[str, Any], plan: Plan, what: str) -> Layout:
    """Return where everything lies; nothing of it is larger than it may be."""
    identity = ours["identity"]
    config = identity["config"]
    names = schema.items(identity.get("taps"), f"{what}: taps", 4096)
    taps = tuple(schema.text(name, f"{what}: taps") for name in names)
    tokens = schema.items(config.get("grid"), f"{what}: grid", 2)
    if len(tokens) != 2 or config.get("store_dtype") not in _DTYPES:
        raise schema.SchemaError(f"{what}: the grid has two sides, store_dtype is one of {_DTYPES}")
    kind = LayoutOfFormat1 if ours["format"] == 1 else Layout
    layout = kind(
        plan=plan,
        taps=taps,
        channels=schema.whole(identity.get("channels"), f"{what}: channels", 1, 2**20),
        tokens=(schema.whole(tokens[0], what, 1, 4096), schema.whole(tokens[1], what, 1, 4096)),
        store_dtype=config["store_dtype"],
    )
    check_scene_ids([scene.scene_id for scene in plan.scenes])
    check_taps(taps, () if ours["format"] == 1 else layout.reserved)
    for spec in layout.unit_arrays:
        if spec.chunk_bytes > _MAX_CHUNK_BYTES or spec.index_bytes > _MAX_INDEX_BYTES:
            raise schema.SchemaError(f"{what}: a chunk or an index of {spec.name} is too large")
    return layout


def _check_sizes(layout: Layout) -> None:
    """Raise StoreError where an object would be larger than one PUT to a bucket may be."""
    views = sum(scene.num_views for scene in layout.plan.scenes)
    if (size := views * _RECORD_BYTES_A_VIEW) > MAX_PUT_BYTES:
        raise StoreError(
            f"the index of {views} views would take about {size / 2**30:.1f} GiB, and one PUT "
            "takes 5; extract into several stores, which open_store([a, b]) reads as one"
        )
    for spec, unit, size in layout.planned_bytes():
        if size > MAX_PUT_BYTES:
            raise StoreError(
                f"{spec.name}: the shard of unit {unit} would take {size / 2**30:.1f} GiB, and "
                "one PUT takes 5; use fewer --scenes-per-shard or --views"
            )
