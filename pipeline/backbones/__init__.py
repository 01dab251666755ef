"""What an encoder offers, one file a model family; the token grid, noise, loading weights.

Images in, tokens out: knows no scene source and no store. A family is one file with its settings,
what planning must know, and the loaded encoder: open `siglip.py` first, then `backbone.py` (what
all share) and `grid.py` (bringing tokens to the common grid). Names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.backbone import Backbone as Backbone
    from vega3d.pipeline.backbones.loading import load_backbone as load_backbone

_HOMES = {
    "Backbone": "vega3d.pipeline.backbones.backbone",
    "load_backbone": "vega3d.pipeline.backbones.loading",
}
__all__ = ["Backbone", "load_backbone"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
