"""Verifying a store of format 1, which hashes its shards, its config and its rows, and no more."""

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store import schema
from vega3d.pipeline.store.checking import (
    Findings,
    look_at_records,
    look_at_shards,
    look_for_more,
    same_json,
)
from vega3d.pipeline.store.metadata import ROOT
from vega3d.pipeline.store.objects import TEMPORARY_SUFFIX, Objects
from vega3d.pipeline.store.records import Records
from vega3d.pipeline.store.root import Root
from vega3d.pipeline.store.shard import checked_chunk

UNPROTECTED = (
    "format 1 has no hash of commit records and of the root's other attributes, and no second copy "
    "of them: damage there may go unnoticed and cannot be repaired; stores that are made now have"
)


def look(objects: Objects, root: Root) -> Findings:
    """Look at every object; merged arrays against their own checksums alone."""
    findings = Findings()
    document = schema.load(objects.read(ROOT), ROOT)
    arrays = document.get("consolidated_metadata", {}).get("metadata", {})
    for name, expected in arrays.items():
        if reason := same_json(objects, f"{name}/{ROOT}", expected):
            findings.fixed[f"{name}/{ROOT}"] = reason
    look_at_records(Records(objects, 1), root.layout, findings)
    look_at_shards(objects, findings)
    keys = list(objects.keys(""))
    look_for_more(keys, root.layout, findings)
    unit_arrays = {spec.name for spec in root.layout.unit_arrays}
    for key in keys:
        name, _, rest = key.partition("/")
        if name not in arrays or name in unit_arrays or not rest.startswith("c/"):
            continue
        if not key.endswith(TEMPORARY_SUFFIX) and (reason := _checksum(objects, key)):
            findings.merged[key] = reason
    return findings


def _checksum(objects: Objects, key: str) -> str:
    try:
        checked_chunk(objects.read(key), key)
    except (OSError, StoreError) as error:
        return str(error)
    return ""
