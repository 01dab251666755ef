"""What a probe is asked about the cells of procedural rooms: depth, normal, class.

Letters: S scenes, V views, h w cells, H W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.rooms.rooms import Rooms
from vega3d.pipeline.scenes.rooms.truth import (
    LABELS,
    NO_LABEL,
    ViewTruth,
    label_cells,
    view_truth,
)

SHELL = ("floor", "ceiling", "wall", "skirting")
"""Classes that are no objects."""

_CLEAR_SHARE = 0.6
"""Share of a cell's pixels that its class must have to be asked for."""

_FLAT_LENGTH = 0.8
"""Length of the mean normal from which a cell counts as one surface."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Right answers of every cell, [S, V, h, w], and which of them are clear enough to count."""

    log_depth: Tensor
    normal: Tensor
    """[S, V, h, w, 3], unit, camera axes."""

    is_flat: Tensor
    label: Tensor
    """Index in LABELS."""

    is_object: Tensor
    """One object fills most of the cell."""


def room_answers(location: str, grid: tuple[int, int]) -> Answers:
    """Return the answers of all views of `rooms:...`; raises UsageError for other sources."""
    source = read_scenes(location)
    if not isinstance(source, Rooms):
        raise UsageError(f"{location}: classes and normals are known of rooms alone; give rooms:N")
    if source.height % grid[0] or source.width % grid[1]:
        raise UsageError(f"{location}: cells of {grid} do not divide its pixels evenly")
    scenes = []
    for entry in source.entries():
        film = source.film(entry.scene_id)
        scenes.append([_cells(view_truth(film, view), grid) for view in range(source.views)])
    stacked = [np.array([[view[k] for view in scene] for scene in scenes]) for k in range(4)]
    depth_m, normal, label, share = (torch.from_numpy(values) for values in stacked)
    length = normal.norm(dim=-1)
    is_shell = torch.isin(label, torch.tensor([LABELS.index(name) for name in SHELL]))
    return Answers(
        log_depth=depth_m.clamp(min=1e-3).log(),
        normal=normal / length.clamp(min=1e-6)[..., None],
        is_flat=length > _FLAT_LENGTH,
        label=label,
        is_object=(share > _CLEAR_SHARE) & ~is_shell,
    )


def _cells(
    truth: ViewTruth, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return median depth, mean normal, most frequent class and its share, of every cell."""
    depth_m = np.median(_split(truth.depth_m, grid), axis=-1)
    normal = np.stack([_split(truth.normal[..., k], grid).mean(-1) for k in range(3)], axis=-1)
    label, share = label_cells(np.where(truth.label == NO_LABEL, 0, truth.label), grid)
    return depth_m, normal.astype(np.float32), label, share


def _split(image: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Cut [H, W] into cells, [h, w, pixels]."""
    (h, w), (rows, cols) = grid, image.shape
    cut = image.reshape(h, rows // h, w, cols // w).transpose(0, 2, 1, 3)
    return cut.reshape(h, w, -1)
