"""What an encoder offers, one file a model family; the token grid, noise, loading weights.

Images in, tokens out: knows no scene source and no store. A family is one file with its settings,
what planning must know, and the loaded encoder: open `siglip.py` first, then `backbone.py` (what
all share) and `grid.py` (bringing tokens to the common grid). Names load on first use.
"""

from typing import TYPE_CHECKING

from vega3d.pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.backbone import Backbone as Backbone
    from vega3d.pipeline.backbones.loading import load_backbone as load_backbone

__all__ = ["Backbone", "load_backbone"]
__getattr__ = lazy_names(
    __name__,
    {
        "Backbone": "backbone",
        "load_backbone": "loading",
    },
)
