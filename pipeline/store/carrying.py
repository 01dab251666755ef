"""Carrying scenes of a superseded commit over to its successor, byte for byte."""

from collections.abc import Collection

import numpy as np

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.identity import sha256_of
from vega3d.pipeline.store.layout import ArraySpec
from vega3d.pipeline.store.objects import Objects
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.shard import Place, read_shard


def carried_chunks(
    objects: Objects, spec: ArraySpec, last: Record, rows: Collection[int]
) -> dict[Place, np.ndarray]:
    """Return the chunks of some rows of a committed shard, as they are stored.

    Raises:
        StoreError: The shard is not what was committed: damage is not carried on.
    """
    key = next(key for key in last.objects if key.startswith(f"{spec.name}/"))
    name = f"{objects.url}/{key}"
    try:
        raw = objects.read(key)
    except FileNotFoundError:
        raw = b""
    if sha256_of([raw]) != last.objects[key].sha256:
        raise StoreError(
            f"{name} does not match its checksum, and good scenes of it are to be carried over; "
            "run `vega3d-extract verify STORE --repair`, then the extraction again"
        )
    return {place: chunk for place, chunk in read_shard(raw, spec.grid, name).items()
            if place[0] in rows}  # fmt: skip
