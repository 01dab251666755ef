"""Making a store, or checking that the one that is there was made from the same settings."""

import json
from collections.abc import Mapping
from typing import Any

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.places import absolute
from vega3d.pipeline.store.identity import FORMAT_VERSION, differing_fields
from vega3d.pipeline.store.metadata import ROOT, fixed_chunk_files, metadata_objects
from vega3d.pipeline.store.objects import TEMPORARY_SUFFIX, Objects, open_objects
from vega3d.pipeline.store.records import ROWS, RUNS
from vega3d.pipeline.store.root import COPY, Root, new_root, parse_attributes
from vega3d.pipeline.store.units import Plan
from vega3d.pipeline.store.writer import StoreWriter


def create_or_resume(
    url: str, plan: Plan, identity: Mapping[str, Any], numerics: Mapping[str, Any]
) -> StoreWriter:
    """Write a store's metadata, or check that the store there was made from the same settings.

    `identity` holds `config`, `taps`, `channels`, and whatever else decides the stored bytes.
    The numerics of a store that exists win over those given.

    Raises:
        StoreError: Another config or other scenes are there, or something that is no store; or a
            name cannot be used, or a shard would be too large.
    """
    ours = new_root(plan, identity, numerics)
    url = absolute(url)
    objects = open_objects(url)
    _refuse_foreign(objects)
    root = ours
    if not objects.exists(ROOT) and objects.create(ROOT, [raw := fixed_objects(ours)[ROOT]]):
        _check_create_only(objects, raw)
    else:
        theirs = parse_attributes(objects.read(ROOT), f"{url}/{ROOT}")
        check_written_here(url, theirs["vega3d"])
        _check_same(url, ours, theirs["vega3d"], objects)
        root = Root(theirs, ours.layout)
    for key, value in fixed_objects(root).items():
        objects.create(key, [value])
    return StoreWriter(url=url, layout=root.layout, numerics=root.ours["numerics"])


def fixed_objects(root: Root) -> dict[str, bytes]:
    """Return every object that is known from the plan, by its name: all but shards and records."""
    layout = root.layout
    specs = [*layout.unit_arrays, *layout.merged_arrays, *layout.fixed_arrays]
    found = metadata_objects(specs, root.attributes)
    for spec in layout.fixed_arrays:
        found |= fixed_chunk_files(spec, layout.fixed_values(spec.name))
    return {**found, ROWS: root.rows, COPY: root.copy}


def check_written_here(url: str, ours: Mapping[str, Any]) -> None:
    """Refuse to write to a store of an older format; raises StoreError."""
    if ours["format"] != FORMAT_VERSION:
        raise StoreError(
            f"{url} is a store of format {ours['format']}: it is read and verified, and "
            f"written no more (new stores have format {FORMAT_VERSION}). Extract into another "
            "--out, or go on with the version of vega3d that made it"
        )


def _check_create_only(objects: Objects, raw: bytes) -> None:
    """Refuse a place that takes a second create: there, two jobs would overwrite one another.

    The same bytes are offered again, so that the question does no harm. Once more where it says
    yes, because a create whose answer was lost is offered again by itself.
    """
    if objects.create(ROOT, [raw]) and objects.create(ROOT, [raw]):
        raise StoreError(
            f"{objects.url}: a second create-only write of {ROOT} was accepted, so this server "
            "ignores If-None-Match and two jobs would overwrite each other's results; use one that "
            "honours it (S3, MinIO, Ceph, R2, GCS do), or a local folder and a copy"
        )
    if objects.read(ROOT) != raw:
        raise StoreError(
            f"{objects.url}: {ROOT} reads otherwise than it was written; choose another place"
        )


def _refuse_foreign(objects: Objects) -> None:
    """Refuse a place that holds something else; logs and litter of a start cut short are ours."""
    if objects.exists(ROOT):
        return
    for key in objects.keys(""):
        if key == COPY:
            raise StoreError(
                f"{objects.url}: the store's {ROOT} is gone; run `vega3d-extract verify STORE "
                "--repair`, then the same command again"
            )
        if not key.endswith(TEMPORARY_SUFFIX) and not key.startswith(RUNS):
            raise StoreError(
                f"{objects.url} is not empty ({key}) and holds no store; "
                "choose a new or an empty folder for --out"
            )


def _check_same(url: str, root: Root, theirs: Mapping[str, Any], objects: Objects) -> None:
    ours = root.ours
    if ours["config_digest"] != theirs["config_digest"]:
        fields = differing_fields(ours["identity"], theirs["identity"])
        if all(one.startswith("arithmetic_version") for one in fields):
            raise StoreError(
                f"{url} was begun by a vega3d that computes this dtype in another way "
                f"({'; '.join(fields)}), and one store never mixes two; finish it with the version "
                "that began it, or write to another --out"
            )
        raise StoreError(
            f"{url} was made with another config: {theirs['config_digest'][:12]} there, "
            f"{ours['config_digest'][:12]} asked for. Differing: {'; '.join(fields[:8])}. "
            "Write to another --out, or ask for the same config"
        )
    if ours["rows_sha256"] != theirs["rows_sha256"]:
        raise StoreError(_other_scenes(url, objects, root.rows))
    if ours["scenes_per_shard"] != theirs["scenes_per_shard"]:
        raise StoreError(
            f"{url} has {theirs['scenes_per_shard']} scenes a shard, and this source gives "
            f"{ours['scenes_per_shard']} (its tars hold other numbers of scenes); use the tars "
            "that the store was made from, or write to another --out"
        )


def _other_scenes(url: str, objects: Objects, rows: bytes) -> str:
    try:
        there = {row["scene_id"]: row for row in json.loads(objects.read(ROWS))}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        there = {}
    mine = {row["scene_id"]: row for row in json.loads(rows)}
    new, gone = sorted(mine.keys() - there.keys()), sorted(there.keys() - mine.keys())
    changed = sorted(name for name in mine.keys() & there.keys() if mine[name] != there[name])
    return (
        f"{url} was planned for other scenes: {len(new)} new {new[:3]}, {len(gone)} missing "
        f"{gone[:3]}, {len(changed)} with other views {changed[:3]}. A store never grows: write "
        "new scenes to a store of their own; open_store([a, b]) reads both as one"
    )
