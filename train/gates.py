"""The gate over the views of a scene, as pictures: semantic or generative, token by token.

Letters: V views, N tokens of a view.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image

from vega3d.train.loader import Loader
from vega3d.train.model import SpatialModel
from vega3d.train.order import Sample
from vega3d.train.pairing import Pairing

GENERATIVE_RGB = (37, 99, 235)
SEMANTIC_RGB = (249, 115, 22)
_MIDDLE_RGB = (240, 240, 240)
_MAX_VIEWS = 8


@dataclass(frozen=True)
class SceneGates:
    """Pictures of one scene for a page: each a view and the gate to lay over it, as data URLs."""

    scene_id: str
    mean: float
    views: list[dict[str, str]]
    """view_id, preview, overlay, aspect, mean."""


@torch.no_grad()
def read_gates(
    model: SpatialModel, loader: Loader, samples: list[Sample]
) -> dict[tuple[str, int], Float32[np.ndarray, " N"]]:
    """Return the gate of every view of the samples, NaN where a token is not valid.

    Empty where the variant has no gate; a channel gate is its mean.
    """
    model.eval()
    found: dict[tuple[str, int], np.ndarray] = {}
    for batch in loader.batches([[sample] for sample in samples]):
        _, gate = model(batch, model.targets(batch))
        if gate is None:
            return {}
        values = torch.where(batch.valid, gate.mean(dim=-1), torch.nan).cpu().numpy()
        for v, view in enumerate(batch.views[0].tolist()):
            if batch.asked[0, v]:
                found[batch.scene_ids[0], view] = values[0, v]
    return found


def gate_range(gates: dict[tuple[str, int], np.ndarray]) -> tuple[float, float]:
    """Return the gates that get full colours: as far below 0.5 as above, at least 0.01.

    The middle 96 % of all gates lie between them, and an even gate is grey.
    """
    values = np.concatenate([gate[np.isfinite(gate)] for gate in gates.values()])
    reach = max(0.01, float(np.abs(np.percentile(values, [2, 98]) - 0.5).max()))
    return 0.5 - reach, 0.5 + reach


def vary(gates: dict[tuple[str, int], np.ndarray]) -> bool:
    """Say whether the gates differ between tokens; a map of one number shows nothing."""
    values = [gate[np.isfinite(gate)] for gate in gates.values()]
    known = np.concatenate(values) if values else np.empty(0)
    return bool(known.size) and bool(np.ptp(known) > 1e-6)


def scene_pictures(
    pairing: Pairing, gates: dict[tuple[str, int], np.ndarray], limits: tuple[float, float]
) -> list[SceneGates]:
    """Return the pictures of every scene that the gates speak of."""
    scenes: dict[str, list[int]] = {}
    for scene_id, view in sorted(gates):
        scenes.setdefault(scene_id, []).append(view)
    return [_scene(pairing, name, views, gates, limits) for name, views in scenes.items()]


def overlay(
    gate: Float32[np.ndarray, " N"], grid: tuple[int, int], limits: tuple[float, float]
) -> UInt8[np.ndarray, "gh gw 4"]:
    """Return a gate as colours: blue is generative, orange semantic, unseen tokens are clear."""
    low, high = limits
    share = np.clip((gate.reshape(grid) - low) / (high - low), 0, 1)
    ends = [np.array(rgb, dtype=np.float64) for rgb in (GENERATIVE_RGB, _MIDDLE_RGB, SEMANTIC_RGB)]
    known = np.where(np.isfinite(share), share, 0.5)[..., None]
    below, above = np.minimum(2 * known, 1), np.maximum(2 * known - 1, 0)
    colour = ends[0] + below * (ends[1] - ends[0]) + above * (ends[2] - ends[1])
    alpha = np.where(np.isfinite(share), 255, 0)[..., None]
    return np.concatenate([colour, alpha], axis=-1).round().astype(np.uint8)


def _scene(
    pairing: Pairing,
    scene_id: str,
    views: list[int],
    gates: dict[tuple[str, int], np.ndarray],
    limits: tuple[float, float],
) -> SceneGates:
    if len(views) > _MAX_VIEWS:
        views = [views[i] for i in np.linspace(0, len(views) - 1, _MAX_VIEWS).round().astype(int)]
    previews = pairing.prior.preview(scene_id)
    sizes = pairing.prior.image_size(scene_id)
    ids = pairing.prior.view_ids(scene_id)
    pictures = []
    for view in views:
        gate = gates[scene_id, view]
        height, width = (int(side) for side in sizes[view])
        fallback = previews[view].shape[1] / previews[view].shape[0]
        pictures.append(
            {
                "view_id": ids[view],
                "preview": _data_url(previews[view], "JPEG"),
                "overlay": _data_url(overlay(gate, pairing.grid, limits), "PNG"),
                "aspect": f"{width / height if width and height else fallback:.4f}",
                "mean": f"{np.nanmean(gate):.2f}" if np.isfinite(gate).any() else "none",
            }
        )
    every = np.concatenate([gates[scene_id, view] for view in views])
    mean = float(np.nanmean(every)) if np.isfinite(every).any() else float("nan")
    return SceneGates(scene_id, mean, pictures)


def _data_url(pixels: np.ndarray, kind: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
