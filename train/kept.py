"""Features kept in the training device's memory, so that a step waits for no bus and no disk.

A GPU takes more features than its bus brings: 5,500 samples of 4.2 MB a second are 23 GB/s. Where
those of all scenes fit, each scene is read once, in one large (pinned) piece a stream, when it is
first asked for; from then on its views are picked where they lie. Reading threads do both, so that
the training thread finds its batches ready. Letters: B samples, V views of a sample, N tokens of a
view, C channels.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vega3d.train.chunks import bytes_of
from vega3d.train.config import KeepFeatures
from vega3d.train.streams import Stream

SHARE_OF_FREE = 0.6
"""Of the memory that is free before training begins, at most: the rest is for the step."""


class KeptFeatures:
    """Both streams' features of all scenes on one device; safe to share between threads."""

    def __init__(
        self,
        streams: Sequence[Stream],
        num_views: Mapping[str, int],
        tokens: int,
        device: torch.device,
    ) -> None:
        """Take the memory; no feature is read yet.

        Args:
            streams: Generative and semantic.
            num_views: Views of every scene.
            tokens: Of a view.
            device: Where they are kept.
        """
        self._streams, self._num_views, self._device = streams, num_views, device
        starts = np.cumsum([0, *num_views.values()])
        self._start = dict(zip(num_views, starts.tolist(), strict=False))
        shapes = [(int(starts[-1]), tokens, stream.num_channels) for stream in streams]
        self._kept = [
            torch.empty(shape, dtype=stream.torch_dtype, device=device)
            for shape, stream in zip(shapes, streams, strict=True)
        ]
        self._there: set[str] = set()
        self._locks: dict[str, threading.Lock] = {}

    def take(
        self, scene_ids: Sequence[str], views: Sequence[Sequence[int]]
    ) -> list[Float[Tensor, "B V N C"]]:
        """Return each stream's features of the samples' views, after reading what is not there."""
        for scene_id in scene_ids:
            if scene_id not in self._there:
                with self._locks.setdefault(scene_id, threading.Lock()):
                    if scene_id not in self._there:
                        self._read(scene_id)
        starts = torch.tensor([self._start[scene_id] for scene_id in scene_ids])
        rows = (starts[:, None] + torch.tensor(views)).to(self._device)
        return [kept[rows] for kept in self._kept]

    def _read(self, scene_id: str) -> None:
        start, count = self._start[scene_id], self._num_views[scene_id]
        for stream, kept in zip(self._streams, self._kept, strict=True):
            piece = torch.empty(
                (count, *kept.shape[1:]), dtype=kept.dtype, pin_memory=self._device.type == "cuda"
            )
            for view in range(count):
                stream.expect(scene_id, view)
            for view, out in enumerate(piece.numpy()):
                stream.read_into(scene_id, view, bytes_of(out))
            kept[start : start + count].copy_(piece)
        self._there.add(scene_id)  # last: only now may others take its views


def size_bytes(streams: Sequence[Stream], num_views: Mapping[str, int], tokens: int) -> int:
    """Return what `KeptFeatures` would take."""
    a_token = sum(stream.num_channels * stream.dtype.itemsize for stream in streams)
    return sum(num_views.values()) * tokens * a_token


def keeps(
    wish: KeepFeatures, size: int, device: torch.device, free: Callable[[], int] | None = None
) -> bool:
    """Say whether features of that size are kept on a device.

    Args:
        wish: `auto`: on a GPU where they fit. On a CPU nothing is gained: the system keeps files in
            the same memory.
        size: Bytes.
        device: Where.
        free: Its free bytes; asked of the GPU where left out.
    """
    if wish != "auto":
        return wish == "always"
    if device.type != "cuda":
        return False
    left = _free_bytes(device) if free is None else free()
    return size <= SHARE_OF_FREE * left


def _free_bytes(device: torch.device) -> int:
    """Return what is free of a GPU, what torch holds back from the run before included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
