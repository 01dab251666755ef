"""Views for a model that learns from single ones: on the GPU where one is used, else on disk."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Pictures:
    """Views of all scenes, on the GPU where one is used (there must be room), else on disk."""

    def __init__(self, parts: Sequence[np.ndarray], device: torch.device) -> None:
        """Take the arrays of `cache_views`."""
        self._device = device
        self._at = [(part, index) for part in parts for index in range(len(part))]
        self._held: Tensor | None = None
        if device.type == "cuda":
            self._held = torch.cat([torch.from_numpy(np.array(p)).to(device) for p in parts])

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self._at)

    def take(self, scenes: np.ndarray, views: np.ndarray) -> Tensor:
        """Return [B, H, W, 3] uint8 on the device: one view of each of B scenes."""
        if self._held is not None:
            return self._held[torch.from_numpy(scenes), torch.from_numpy(views)]
        chosen = (
            (*self._at[scene], view)
            for scene, view in zip(scenes.tolist(), views.tolist(), strict=True)
        )
        return torch.from_numpy(np.stack([part[at, view] for part, at, view in chosen]))
