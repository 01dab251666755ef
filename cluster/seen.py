"""Whether a worker sees what the driver sees: the store's root, the scenes' folders, the model."""

import hashlib
import os
from collections.abc import Mapping

from vega3d.pipeline.backbones.checkpoints import model_name
from vega3d.pipeline.errors import StoreError, TransientError
from vega3d.pipeline.places import roots_of
from vega3d.pipeline.runners import UnitWorker
from vega3d.pipeline.store.objects import open_objects

_ROOT = "zarr.json"


def seen_here(writer: UnitWorker) -> dict[str, str]:
    """Return what this process sees at each place: a hash, `is there` or `is not there`."""
    found = {}
    for url in (store.url for store in writer.stores):
        try:
            found[url] = hashlib.sha256(open_objects(url).read(_ROOT)).hexdigest()
        except (OSError, StoreError, TransientError):
            found[url] = "is not there"
    for place in (*roots_of(writer.source), *_model_folders(writer)):
        if "://" not in place:
            found[place] = "is there" if os.path.exists(place) else "is not there"
    return found


def _model_folders(worker: UnitWorker) -> list[str]:
    """Return the folders of models; none of what is fetched from the hub on every node."""
    names = {model_name(model.config.backbone) for model in worker.models}
    return sorted(name for name in names if os.path.isabs(name))


def differing(ours: Mapping[str, str], theirs: Mapping[str, str], node: str) -> str:
    """Return what a worker on a node does not see as the driver does; "" where it sees all."""
    odd = [place for place, seen in ours.items() if theirs.get(place) != seen]
    if not odd:
        return ""
    what = "is not there" if theirs.get(odd[0]) == "is not there" else "holds something else"
    return (
        f"on node {node}, {odd[0]} {what}: mount it there under the same path, or give a place "
        "that all nodes reach, such as an s3:// URL"
    )
