"""Wan2.1 text-to-video as an encoder of views: noise a latent, read a block.

A view becomes a VAE latent, noise of its own is mixed in at sigma, and the DiT runs up to the last
tap with the empty prompt. Letters: V views, N latents (one a view, or fewer in context `clip`),
z latent channels, h w tokens, C channels.

Contexts: `frame` attends within each view. `stack` puts the views' latents on the time axis, so
that attention runs across all of them. `clip` encodes the views as one video, the last one
repeated up to 4k + 1: latent 0 holds view 0 and latent j >= 1 views 4j - 3 to 4j, so view i reads
latent ceil(i / 4), and a latent's noise is that of the first view it holds.

One backbone serves one thread: the VAE keeps its causal cache on itself while it encodes.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor, nn

from vega3d.pipeline.backbones import checkpoints, wan_reference
from vega3d.pipeline.backbones.backbone import check_noise, check_views
from vega3d.pipeline.backbones.checkpoints import TEXT_ROWS, WAN_PARTS, tap_name
from vega3d.pipeline.backbones.grid import (
    Pooling,
    TokenMap,
    auto_canvas,
    grid_cells,
    place,
    plan_placement,
    pool_to_grid,
)
from vega3d.pipeline.backbones.noise import view_noise
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.prompt import empty_prompt_embedding, read_prompt_embedding
from vega3d.pipeline.backbones.wan_weights import load_transformer, load_vae
from vega3d.pipeline.config import ExtractConfig

PATCH_PX = 16
"""Side of a token: VAE 8 x patch 2."""

LATENT_PX = 8
"""Side of a latent cell."""


class WanBackbone:
    """Wan2.1's DiT, cut after the last tap, and the encoder of its VAE."""

    def __init__(
        self,
        config: ExtractConfig,
        numerics: Numerics,
        prompt_embeds: Float32[np.ndarray, "L D"] | str | Path | None = None,
    ) -> None:
        """Load the weights; encode the empty prompt too where `prompt_embeds` is None."""
        folder = checkpoints.resolve_model(config.model, WAN_PARTS)
        dit_config = checkpoints.check_class(folder, "transformer", "WanTransformer3DModel")
        blocks = checkpoints.resolve_blocks(config.blocks, dit_config["num_layers"])
        rows = _prompt_rows(config.model, prompt_embeds, dit_config["text_dim"])
        self.taps = checkpoints.tap_names(config, blocks)
        self._config, self._numerics, self._blocks = config, numerics, blocks
        self._vae = load_vae(folder, dit_config["in_channels"], numerics.device)
        self._dit = load_transformer(folder, max(blocks), config.dtype, numerics.device)
        self.channels: int = dit_config["num_attention_heads"] * dit_config["attention_head_dim"]
        constants = torch.tensor([self._vae.config.latents_mean, self._vae.config.latents_std])
        self._latents_mean, self._latents_std = constants.float().to(numerics.device)
        with torch.inference_mode():
            self._text = self._project_text(rows)
            self._levels = {k: self._noise_level(k) for k in config.timesteps}

    def canvas(self, image_height: int, image_width: int) -> tuple[int, int]:
        """Return rows and columns of the input that an image of that size is brought to, px."""
        if isinstance(self._config.resolution, tuple):
            return self._config.resolution
        return auto_canvas(image_height, image_width, checkpoints.WAN_AUTO_TOKENS, PATCH_PX)

    def token_map(self, image_height: int, image_width: int) -> TokenMap:
        """Say where the tokens of an image of that size look."""
        canvas = self.canvas(image_height, image_width)
        if self._config.recipe == "reference":
            return wan_reference.reference_token_map(image_height, image_width, *canvas, PATCH_PX)
        return plan_placement(image_height, image_width, canvas, self._config.fit).token_map(
            PATCH_PX
        )

    def encode(
        self,
        rgb: UInt8[np.ndarray, "V H W 3"],
        *,
        scene_id: str,
        view_ids: Sequence[str],
        noise: Float32[Tensor, "V z 1 h_lat w_lat"] | None = None,
    ) -> dict[str, Float32[Tensor, "V h w C"]]:
        """Return each tap's features on the DiT's own token grid, float32 on the CPU."""
        check_views(rgb, view_ids)
        canvas = self.canvas(*rgb.shape[1:3])
        self._check_size(len(rgb), canvas)
        if noise is not None:
            rows, cols = canvas[0] // LATENT_PX, canvas[1] // LATENT_PX
            shape = (len(rgb), self._vae.config.z_dim, 1, rows, cols)
            check_noise(noise, shape, self._config.noise_samples)
        with torch.inference_mode(), _exact_convolutions(self._numerics.device):
            latents = self._latents(rgb, canvas)
            first_view, latent_of_view = _latent_views(len(rgb), self._config.context)
            names = [view_ids[i] for i in first_view]
            given = None if noise is None else noise[first_view]
            parts: dict[str, list[Tensor]] = {tap: [] for tap in self.taps}
            for tap, features in self._passes(latents, scene_id, names, given):
                parts[tap].append(features)
        return {tap: torch.cat(found)[latent_of_view] for tap, found in parts.items()}

    def pool(
        self,
        features: Float32[Tensor, "V h w C"],
        image_height: int,
        image_width: int,
        grid: tuple[int, int],
    ) -> tuple[Float32[np.ndarray, "V gh gw C"], Float32[np.ndarray, "gh gw"]]:
        """Bring features to the common grid; see `grid.pool_to_grid`."""
        if self._config.recipe == "reference":
            pooled = wan_reference.reference_pool(features.numpy(), grid)
            return pooled, np.ones(grid, dtype=np.float32)
        token_map = self.token_map(image_height, image_width)
        return pool_to_grid(features.numpy(), token_map, image_height, image_width, grid)

    def cells(
        self, image_height: int, image_width: int, grid: tuple[int, int]
    ) -> tuple[Float64[np.ndarray, "gh 2"], Float64[np.ndarray, "gw 2"]]:
        """Return the image rows and columns that each common cell looks at, px."""
        pooling: Pooling = "adaptive" if self._config.recipe == "reference" else "area"
        token_map = self.token_map(image_height, image_width)
        return grid_cells(token_map, image_height, image_width, grid, pooling)

    def _passes(
        self,
        latents: Float32[Tensor, "N z 1 h_lat w_lat"],
        scene_id: str,
        names: Sequence[str],
        given: Float32[Tensor, "N z 1 h_lat w_lat"] | None,
    ) -> Iterator[tuple[str, Float32[Tensor, "n h w C"]]]:
        """Yield every tap of every noise level, latents in order."""
        step = self._numerics.batch_size if self._config.context == "frame" else len(latents)
        for start in range(0, len(latents), step):
            clean = latents[start : start + step]
            for sample in range(self._config.noise_samples):
                for timestep, (sigma, modulation) in self._levels.items():
                    keys = [
                        (scene_id, name, timestep, sample) for name in names[start : start + step]
                    ]
                    eps = self._noise(keys, clean) if given is None else given[start : start + step]
                    noised = (1 - sigma) * clean + sigma * eps.to(clean.device)
                    for block, features in self._run_blocks(noised, modulation):
                        yield tap_name(timestep, block, sample), features.cpu()

    def _run_blocks(
        self, noised: Float32[Tensor, "n z 1 h_lat w_lat"], modulation: Float32[Tensor, "1 6 C"]
    ) -> Iterator[tuple[int, Float32[Tensor, "n h w C"]]]:
        """Yield the output of each tapped block; nothing after the last one runs."""
        alone = self._config.context == "frame"
        video = noised if alone else noised.transpose(0, 2)  # n z 1 h w -> 1 z n h w
        rows, cols = noised.shape[3] // 2, noised.shape[4] // 2
        rotary = self._dit.rope(video)
        with self._autocast(self._config.recipe == "reference"):
            hidden = self._dit.patch_embedding(video).float()
        hidden = hidden.flatten(2).transpose(1, 2).contiguous()
        text = self._text.expand(len(video), -1, -1)
        with self._autocast():
            for index, block in enumerate(self._dit.blocks):
                hidden = block(hidden, text, modulation, rotary)
                if index in self._blocks:
                    yield index, hidden.reshape(-1, rows, cols, self.channels).float()

    def _latents(
        self, rgb: UInt8[np.ndarray, "V H W 3"], canvas: tuple[int, int]
    ) -> Float32[Tensor, "N z 1 h_lat w_lat"]:
        """Encode the views, each alone or all as one video, to normalised latents."""
        if self._config.context == "clip":
            padded = np.minimum(np.arange(4 * ((len(rgb) + 2) // 4) + 1), len(rgb) - 1)
            video = self._pixels(rgb, canvas)[padded].transpose(0, 2)  # T 3 1 H W -> 1 3 T H W
            return self._encode_video(video).transpose(0, 2)
        step = self._numerics.batch_size
        batches = (rgb[start : start + step] for start in range(0, len(rgb), step))
        return torch.cat([self._encode_video(self._pixels(batch, canvas)) for batch in batches])

    def _encode_video(
        self, video: Float[Tensor, "B 3 T H W"]
    ) -> Float32[Tensor, "B z t h_lat w_lat"]:
        """Return (mean - latents_mean) / latents_std of the posterior; nothing is sampled.

        Source: diffusers, pipeline_wan_video2video.py; Wan-Video/Wan2.1, wan/modules/vae.py.
        """
        video = video.to(self._numerics.device)
        if self._config.recipe == "reference":
            with self._autocast():
                mean = self._vae.encode(video.float()).latent_dist.mode()
            tower = _dtype(self._config.dtype)
            return wan_reference.reference_latents(
                mean, self._latents_mean, self._latents_std, tower
            )
        mean = self._vae.encode(video).latent_dist.mode()
        shape = (1, -1, 1, 1, 1)
        latents: Tensor = (mean - self._latents_mean.view(shape)) / self._latents_std.view(shape)
        return latents

    def _pixels(
        self, rgb: UInt8[np.ndarray, "V H W 3"], canvas: tuple[int, int]
    ) -> Float[Tensor, "V 3 1 rows cols"]:
        """Bring views to the canvas, as values in [-1, 1]."""
        if self._config.recipe == "reference":
            return wan_reference.reference_pixels(rgb, *canvas, _dtype(self._config.dtype))
        placement = plan_placement(rgb.shape[1], rgb.shape[2], canvas, self._config.fit)
        placed = torch.from_numpy(place(rgb, placement))
        return (placed.permute(0, 3, 1, 2).float() / 127.5 - 1).unsqueeze(2)

    def _noise(
        self, keys: Sequence[tuple[str, str, int, int]], like: Tensor
    ) -> Float32[Tensor, "n z 1 h_lat w_lat"]:
        shape = tuple(like.shape[1:])
        return torch.from_numpy(
            np.stack([view_noise(self._config.noise_seed, *key, shape) for key in keys])
        )

    def _noise_level(self, timestep: int) -> tuple[float, Float32[Tensor, "1 6 C"]]:
        """Return sigma and the blocks' modulation for one timestep, all in float32."""
        embedder = self._dit.condition_embedder
        if self._config.recipe == "reference":
            timestep, sigma = wan_reference.reference_noise_level(timestep)
            sinusoid = wan_reference.reference_sinusoid(timestep, self._dit.config.freq_dim)
        else:
            sigma = timestep / 1000
            sinusoid = embedder.timesteps_proj(torch.tensor([timestep], dtype=torch.float32))
        time = embedder.time_embedder(sinusoid.to(self._numerics.device))
        return sigma, embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1))

    def _project_text(self, rows: Float32[np.ndarray, "L D"]) -> Float[Tensor, "1 512 C"]:
        """Pad the prompt with zero rows BEFORE the text MLP; the blocks attend to all 512.

        Source: Wan-Video/Wan2.1, wan/modules/model.py, WanModel.forward.
        """
        padded = nn.functional.pad(torch.from_numpy(rows), (0, 0, 0, TEXT_ROWS - len(rows)))[None]
        with self._autocast():
            embedded: Tensor = self._dit.condition_embedder.text_embedder(
                padded.to(self._numerics.device)
            )
        return embedded

    def _autocast(self, enabled: bool = True) -> AbstractContextManager[Any]:
        if not enabled or self._config.dtype == "float32":
            return nullcontext()
        return torch.autocast(self._numerics.device, dtype=torch.bfloat16)

    def _check_size(self, num_views: int, canvas: tuple[int, int]) -> None:
        limit = self._dit.config.rope_max_seq_len
        latents = {"frame": 1, "stack": num_views, "clip": 1 + (num_views + 2) // 4}
        sizes = (latents[self._config.context], canvas[0] // PATCH_PX, canvas[1] // PATCH_PX)
        if max(sizes) > limit:
            raise ValueError(
                f"latents, token rows and columns must each be at most {limit}, got {sizes}; "
                f"take fewer views or a smaller resolution"
            )


def _latent_views(num_views: int, context: str) -> tuple[list[int], list[int]]:
    """Return the first view that each latent holds, and the latent that each view reads."""
    if context != "clip":
        return list(range(num_views)), list(range(num_views))
    latent_of_view = [-(-view // 4) for view in range(num_views)]
    return [
        latent_of_view.index(latent) for latent in range(latent_of_view[-1] + 1)
    ], latent_of_view


def _prompt_rows(
    model: str, prompt_embeds: Float32[np.ndarray, "L D"] | str | Path | None, text_dim: int
) -> Float32[np.ndarray, "L D"]:
    """Return the prompt's rows, checked against the model's text width."""
    if prompt_embeds is None:
        rows = empty_prompt_embedding(model, checkpoints.cache_dir())
    elif isinstance(prompt_embeds, str | Path):
        rows = read_prompt_embedding(Path(prompt_embeds))
    else:
        rows = prompt_embeds
    if rows.ndim != 2 or rows.shape[1] != text_dim or not 1 <= len(rows) <= TEXT_ROWS:
        raise ValueError(
            f"prompt_embeds must be 1 to {TEXT_ROWS} rows of {text_dim} numbers for this model, "
            f"got {rows.shape}"
        )
    return np.ascontiguousarray(rows, dtype=np.float32)


def _dtype(name: str) -> torch.dtype:
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _exact_convolutions(device: str) -> AbstractContextManager[Any]:
    """Keep cuDNN from rounding float32 convolutions to TF32, its default, while a scene runs."""
    if device == "cpu":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
