"""What is on disk: layout, shards, commit records, objects; writing, reading, verifying, merging.

Arrays in, arrays out: knows no scene source and no encoder. Open `store.py` first (reading), then
`writer.py` (how a unit becomes durable). Names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vega3d.pipeline.store.store import JoinedStore as JoinedStore
    from vega3d.pipeline.store.store import Store as Store
    from vega3d.pipeline.store.store import open_store as open_store

_HOMES = {
    "JoinedStore": "vega3d.pipeline.store.store",
    "Store": "vega3d.pipeline.store.store",
    "open_store": "vega3d.pipeline.store.store",
}
__all__ = ["JoinedStore", "Store", "open_store"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
