"""The encoders of a run's stores, online: one view in, the tokens that a store would hold out.

Letters: H W an image, N tokens of a view, C channels.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from vega3d.pipeline.backbones.loading import load_from_config
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.prepared import prepare_model
from vega3d.pipeline.store.identity import differing_fields
from vega3d.pipeline.store.layout import PACKED
from vega3d.pipeline.store.packed import packed, unpacked


class ViewEncoder:
    """One encoder as a store used it; nothing after the store's last tap runs."""

    def __init__(
        self, identity: Mapping[str, Any], tap: str, device: Literal["cpu", "cuda"]
    ) -> None:
        """Load it.

        Args:
            identity: What made the store: config and hash of the weights.
            tap: Which of its features.
            device: Where it runs.

        Raises:
            UsageError: Features were imported, the encoder sees all views of a scene at once, or
                its weights are other ones.
        """
        try:
            config = ExtractConfig.from_stored(identity["config"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                "the run's features were not extracted by an encoder known here "
                f"({type(error).__name__}: {error}): it cannot look at new frames"
            ) from error
        prepared = prepare_model(config)
        wanted = {**prepared.identity, "format": identity.get("format")}
        if fields := differing_fields(wanted, identity):
            raise UsageError(f"the encoder is not the one of the store: {'; '.join(fields[:4])}")
        numerics = Numerics(device=device, batch_size=1)
        self.backbone = load_from_config(prepared.config.backbone, numerics, prepared.prompt)
        if self.backbone.views_at_once is None:
            raise UsageError(
                f"{identity['config']['backbone']} saw all views of a scene together; a policy "
                "looks at one at a time: extract with --context frame"
            )
        self.grid, self.tap = config.grid, tap
        self._store_dtype = config.store_dtype

    def tokens(
        self, rgb: UInt8[np.ndarray, "H W 3"], *, scene_id: str, view_id: str
    ) -> tuple[Float32[Tensor, "N C"], Bool[Tensor, " N"]]:
        """Return a view's tokens as the store would hold them, and which of them are seen."""
        pooled, coverage = self.backbone.encode_pooled(
            rgb[None], self.grid, scene_id=scene_id, view_ids=[view_id]
        )
        values = pooled[self.tap][0].reshape(-1, pooled[self.tap].shape[-1])
        seen = coverage.reshape(-1) > 0
        if self._store_dtype == PACKED:
            stored = unpacked(packed(values, seen)[0], values.shape[1])
        else:
            stored = values.astype(self._store_dtype)
        return torch.from_numpy(stored.astype(np.float32)), torch.from_numpy(seen)
