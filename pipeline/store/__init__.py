"""What is on disk: layout, shards, commit records, objects; writing, reading, verifying, merging.

Arrays in, arrays out: knows no scene source and no encoder. Open `store.py` first (reading), then
`writer.py` (how a unit becomes durable). Names load on first use.
"""

from typing import TYPE_CHECKING

from vega3d.pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from vega3d.pipeline.store.store import JoinedStore as JoinedStore
    from vega3d.pipeline.store.store import Store as Store
    from vega3d.pipeline.store.store import open_store as open_store

__all__ = ["JoinedStore", "Store", "open_store"]
__getattr__ = lazy_names(
    __name__,
    {
        "JoinedStore": "store",
        "Store": "store",
        "open_store": "store",
    },
)
