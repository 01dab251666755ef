"""Stage 1: scenes -> units -> backbone features -> store (`vega3d-extract`).

Open `extract.py` first: it tells the whole story in one function. `config.py` has every setting,
`store.py` the contract of what is written, `wan.py` the video generator. Names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.grid import pool_to_grid as pool_to_grid
    from vega3d.pipeline.backbones.loading import load_backbone as load_backbone
    from vega3d.pipeline.scenes.reading import read_scenes as read_scenes
    from vega3d.pipeline.store.store import open_store as open_store

_HOMES = {
    "load_backbone": "vega3d.pipeline.backbones.loading",
    "pool_to_grid": "vega3d.pipeline.backbones.grid",
    "open_store": "vega3d.pipeline.store.store",
    "read_scenes": "vega3d.pipeline.scenes.reading",
}
__all__ = ["load_backbone", "open_store", "pool_to_grid", "read_scenes"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
