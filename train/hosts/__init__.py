"""Plugs for models that people have: fused tokens in the place of their visual tokens.

Open `attached.py` first (`attach_prior`), then `layouts.py` (where a host has each view's tokens).
Knows how Hugging Face's classes hand over visual tokens, and touches none of their code.
"""

from typing import TYPE_CHECKING

from vega3d.pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from vega3d.train.hosts.attached import AttachedPrior as AttachedPrior
    from vega3d.train.hosts.attached import attach_prior as attach_prior

__all__ = ["AttachedPrior", "attach_prior"]
__getattr__ = lazy_names(__name__, {"AttachedPrior": "attached", "attach_prior": "attached"})
