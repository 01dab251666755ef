"""Scores while a model trains: how much of the depth a linear map reads from its tokens.

Letters: S scenes, V views, h w tokens, C channels, N tokens of all kept scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vega3d.evaluate.probes.readout import ridge
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.train.pretrain import vae as images
from vega3d.train.pretrain.clips import scene_depth
from vega3d.train.pretrain.config import GeneratorConfig
from vega3d.train.pretrain.loop import quiet_norms

TOKEN_PX = 16
PROBED_TIMESTEP = 300
LOSS_TIMESTEPS = (100, 300, 500, 700, 900)


@dataclass(frozen=True, slots=True)
class Scored:
    """Scenes that are scored: latents, and the median depth of every token's cell."""

    latents: Tensor
    """[S, V, z, 2h, 2w] float32."""

    log_depth: Tensor
    """[S, V, h, w] of log metres; NaN where there is no reading."""


def load_scored(
    config: GeneratorConfig,
    vae: Any,  # noqa: ANN401
    device: torch.device,
    views: Sequence[np.ndarray],
) -> Scored:
    """Encode the scenes to choose on, whose pictures are `views`; they need the config's size."""
    source = read_scenes(config.choose)
    ids = [entry.scene_id for entry in source.entries()]
    pictures = [scene for part in views for scene in part]
    depths = []
    for scene_id in ids:
        depth_m = scene_depth(source, scene_id, len(pictures[0]))
        if depth_m.shape[1:] != (config.height, config.width):
            raise ValueError(f"{scene_id}: scored views must be {config.height}x{config.width}")
        depths.append(log_depth_of_cells(depth_m))
    latents = [images.encode(vae, rgb, device) for rgb in pictures]
    return Scored(torch.stack(latents), torch.stack(depths).to(device))


def log_depth_of_cells(depth_m: np.ndarray) -> Tensor:
    """Return the log of each cell's median depth, [V, h, w], of depth [V, H, W]; NaN for none."""
    v, rows, cols = depth_m.shape
    h, w = rows // TOKEN_PX, cols // TOKEN_PX
    cells = depth_m[:, : h * TOKEN_PX, : w * TOKEN_PX].reshape(v, h, TOKEN_PX, w, TOKEN_PX)
    cells = cells.transpose(0, 1, 3, 2, 4).reshape(v, h, w, -1)
    median = np.median(cells, axis=-1)
    return torch.from_numpy(np.log(np.where(median > 0, median, np.nan)).astype(np.float32))


class GeneratorProbe:
    """Loss at fixed noise, and depth read from the middle block, on scenes to choose on."""

    def __init__(self, scored: Scored, config: GeneratorConfig) -> None:
        """Draw the noise that every probe shares."""
        generator = torch.Generator().manual_seed(config.seed)
        self._scored, self._config = scored, config
        self._noise = torch.randn(scored.latents.shape, generator=generator)
        self.block = config.layers // 2 - 1

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return `loss_k...` and `depth_r2`, the latter with and without the token's position."""
        clean = self._scored.latents.flatten(0, 1).unsqueeze(2)
        noise = self._noise.flatten(0, 1).unsqueeze(2).to(clean.device)
        scores = {}
        for k in LOSS_TIMESTEPS:
            velocity, tokens = self._run(model, torch.lerp(clean, noise, k / 1000), k)
            scores[f"loss_k{k}"] = float((velocity - (noise - clean)).square().mean())
            if k == PROBED_TIMESTEP:
                features = tokens.reshape(*self._scored.log_depth.shape, -1)
        scores["depth_r2"] = depth_r2(features, self._scored.log_depth, with_position=False)
        scores["depth_r2_position"] = depth_r2(features, self._scored.log_depth, with_position=True)
        return {name: round(value, 4) for name, value in scores.items()}

    def _run(self, model: Any, latents: Tensor, k: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        kept: list[Tensor] = []
        hook = model.blocks[self.block].register_forward_hook(
            lambda *at: kept.append(at[2].float())
        )
        device = latents.device
        prompt = torch.zeros(1, 1, self._config.text_dim, device=device)
        parts = []
        try:
            with (
                torch.no_grad(),
                quiet_norms(),
                torch.autocast(device.type, torch.bfloat16, enabled=self._config.amp),
            ):
                for x in torch.split(latents, 32):
                    steps = torch.full((len(x),), float(k), device=device)
                    parts.append(model(x, steps, prompt.expand(len(x), -1, -1)).sample.float())
        finally:
            hook.remove()
        return torch.cat(parts), torch.cat(kept)


def depth_r2(features: Tensor, log_depth: Tensor, *, with_position: bool) -> float:
    """Fit a ridge from tokens to log depth on the first half of the scenes; R2 on the other.

    Args:
        features: [S, V, h, w, C].
        log_depth: [S, V, h, w]; NaN cells do not count.
        with_position: Gives the map the token's position, one-hot, beside the features.
    """
    half = len(features) // 2
    x = features.to(torch.float64)
    if with_position:
        h, w = x.shape[2:4]
        position = torch.eye(h * w, dtype=x.dtype, device=x.device).view(1, 1, h, w, -1)
        x = torch.cat([x, position.expand(*x.shape[:2], -1, -1, -1)], -1)
    y = log_depth.to(x)
    seen = [~torch.isnan(part) for part in (y[:half], y[half:])]
    known, asked = x[:half][seen[0]], x[half:][seen[1]]
    predicted = ridge(known, y[:half][seen[0]][:, None], asked)[:, 0]
    answer = y[half:][seen[1]]
    return float(1 - (predicted - answer).square().mean() / answer.var(correction=0))
