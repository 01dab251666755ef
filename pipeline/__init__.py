"""Stage 1: scenes -> units -> backbone features -> store (`vega3d-extract`).

Composes its rooms: `scenes/` (what a capture is), `backbones/` (images in, tokens out) and `store/`
(what is on disk), none of which knows another. Knows no score, no trainer and no cluster. Open
`extract.py` first: it tells the whole story in one function; `config.py` has every setting. Names
load on first use.
"""

from typing import TYPE_CHECKING

from vega3d.pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.grid import pool_to_grid as pool_to_grid
    from vega3d.pipeline.backbones.loading import load_backbone as load_backbone
    from vega3d.pipeline.scenes.reading import read_scenes as read_scenes
    from vega3d.pipeline.store.store import open_store as open_store

__all__ = ["load_backbone", "open_store", "pool_to_grid", "read_scenes"]
__getattr__ = lazy_names(
    __name__,
    {
        "load_backbone": "backbones.loading",
        "open_store": "store.store",
        "pool_to_grid": "backbones.grid",
        "read_scenes": "scenes.reading",
    },
)
