"""Wan2.1 text-to-video as an encoder of views: noise a latent, read a block.

A view becomes a VAE latent, noise of its own is mixed in at sigma, and the DiT runs up to the last
tap with the empty prompt.

Contexts: `frame` attends within each view. `stack` puts the views' latents on the time axis, so
that attention runs across all of them. `clip` encodes the views as one video, the last one
repeated up to 4k + 1: latent 0 holds view 0 and latent j >= 1 views 4j - 3 to 4j, so view i reads
latent ceil(i / 4), and a latent's noise is that of the first view it holds.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vega3d.pipeline.backbones.checkpoints import check_class
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics, autocast
from vega3d.pipeline.backbones.settings import (
    BY_DEVICE,
    Canvas,
    Configs,
    Fit,
    ModelFacts,
    Precision,
    Prompt,
    check_blocks,
    check_choices,
    check_noise_settings,
    check_resolution,
    resolve_blocks,
    tap_name,
)
from vega3d.pipeline.backbones.wan_family import DIT_1_3B, DIT_14B, VAE_2_1, umt5_prompt
from vega3d.pipeline.backbones.wan_flops import block_flops, full_block_flops, vae_flops
from vega3d.pipeline.backbones.wan_inputs import TEXT_ROWS, check_kind, check_prompt, latent_views
from vega3d.pipeline.backbones.wan_parameters import dit_parameters, vae_parameters
from vega3d.pipeline.errors import SceneError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from jaxtyping import Float, Float32
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Encoder, Views
    from vega3d.pipeline.backbones.grid import TokenMap

Context = Literal["frame", "clip", "stack"]
Recipe = Literal["vega3d", "reference"]

TOKEN_PX = 16
"""Side of a token: VAE 8 x patch 2."""

AUTO_TOKENS = 1560
"""Tokens of a 480x832 view, which `resolution auto` keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WanConfig(BackboneConfig):
    """Settings of Wan2.1 text-to-video, the prior."""

    name: ClassVar[str] = "wan2.1-t2v"
    classes: ClassVar[str] = "WanTransformer3DModel, AutoencoderKLWan"
    licence: ClassVar[str] = "Apache-2.0"
    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae")
    published: ClassVar[Mapping[str, Configs]] = {
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {"transformer": DIT_1_3B, "vae": VAE_2_1},
        "Wan-AI/Wan2.1-T2V-14B-Diffusers": {"transformer": DIT_14B, "vae": VAE_2_1},
    }

    takes: ClassVar[frozenset[str]] = frozenset({"latents"})
    draws_noise: ClassVar[bool] = True
    compiles: ClassVar[bool] = True

    model: str = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    """Hub id, a folder in the same layout, or `desk`: small, comes with the package. Its weights'
    hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (20,)
    """Blocks whose OUTPUT is kept, from 0; negative counts from the end (-1 is the last)."""

    timesteps: tuple[int, ...] = (300,)
    """Flow-matching steps k in 0..1000; sigma = k / 1000, and 0 is the clean latent."""

    resolution: tuple[int, int] | Literal["auto"] = (480, 640)
    """Size of the input, px, rows first in Python; `auto` keeps each image's aspect at about the
    token count of 832x480."""

    fit: Fit = "pad"
    """How an image of another aspect gets there: pad (all of it is seen), crop, stretch."""

    context: Context = "frame"
    """What the generator sees together: each view alone, all as one video (`clip`), or all on the
    time axis with a latent of their own (`stack`)."""

    recipe: Recipe = "vega3d"
    """`reference` repeats the released pipeline step by step, its squash and crop included."""

    dtype: Precision = field(default="float32", metadata=BY_DEVICE)
    """Precision of the matrix products; norms, modulation and the residual stay float32."""

    noise_seed: int = 0
    """Seed of the noise."""

    noise_samples: int = 1
    """Independent noise draws a view, each its own tap."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        check_blocks(self.blocks)
        check_resolution(self.resolution, words=("auto",), multiple=TOKEN_PX)
        check_noise_settings(self.timesteps, self.noise_seed, self.noise_samples)
        if self.recipe == "reference" and (
            self.context != "frame" or not isinstance(self.resolution, tuple)
        ):
            raise ValueError("the reference recipe has context 'frame' and a fixed resolution")
        if self.recipe == "reference" and self.fit != "crop":
            raise ValueError(f"the reference recipe crops: fit must be crop, got {self.fit!r}")

    @property
    def arithmetic(self) -> int:
        """1: the VAE of views alone is in bfloat16 too, which was float32 before."""
        return int(self.recipe == "vega3d" and self.dtype in ("bfloat16", "float8"))

    @property
    def encodes_alone(self) -> bool:
        """Say whether the VAE sees single frames, which a rewritten encoder takes."""
        return self.recipe == "vega3d" and self.context != "clip"

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the two parts' config.json."""
        dit = check_class(configs, "transformer", "WanTransformer3DModel")
        vae = check_class(configs, "vae", "AutoencoderKLWan")
        check_kind(dit, vae, configs.get("model_index.json", {}))
        blocks = resolve_blocks(self.blocks, int(dit["num_layers"]))
        return ModelFacts(
            channels=int(dit["num_attention_heads"]) * int(dit["attention_head_dim"]),
            num_blocks=int(dit["num_layers"]),
            blocks=blocks,
            taps=tuple(
                tap_name(timestep, block, sample)
                for sample in range(self.noise_samples)
                for timestep in self.timesteps
                for block in blocks
            ),
            token_px=TOKEN_PX,
            auto_tokens=AUTO_TOKENS,
            parameters=dit_parameters(dit, max(blocks) + 1) + vae_parameters(vae),
            configs=configs,
        )

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count blocks up to the last tap, once a timestep and noise sample, and the VAE once.

        Views that share a context attend to one another, so they cost more than alone.
        """
        rows, cols = canvas
        tokens = (rows // TOKEN_PX) * (cols // TOKEN_PX)
        latents = {"frame": 1, "stack": num_views, "clip": 1 + math.ceil((num_views - 1) / 4)}
        passes = len(self.timesteps) * self.noise_samples
        depth = max(facts.blocks) + 1
        dit = facts.configs["transformer"]
        sizes = (latents[self.context] * tokens, facts.channels)
        if self.recipe == "reference":
            block = full_block_flops(*sizes, TEXT_ROWS, int(dit["ffn_dim"]))
        else:
            block = block_flops(*sizes, int(dit["num_attention_heads"]), int(dit["ffn_dim"]))
        shared = num_views if self.context != "frame" else 1
        taps = 1 if self.encodes_alone else 3
        vae = vae_flops(rows, cols, int(facts.configs["vae"]["base_dim"]), taps)
        return float(passes * depth * block / shared + vae)

    def refusal(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> str:
        """Say where latents, rows or columns are more than the rotary table holds."""
        limit = int(facts.configs["transformer"].get("rope_max_seq_len", 1024))  # the class's own
        latents = {"frame": 1, "stack": num_views, "clip": 1 + (num_views + 2) // 4}
        sizes = (latents[self.context], canvas[0] // TOKEN_PX, canvas[1] // TOKEN_PX)
        told = f"latents, token rows and columns must each be at most {limit}, got {sizes}; "
        told += "take fewer --views, another --context or a smaller --resolution"
        return told if max(sizes) > limit else ""

    def prompt(self, given: "np.ndarray | str | Path | None") -> Prompt:
        """Return umT5's rows of the empty prompt, or the given ones."""
        return umt5_prompt(self.model, given)

    def token_map(self, facts: ModelFacts, image_height: int, image_width: int) -> "TokenMap":
        """Say where the tokens of an image of that size look, and how they are pooled."""
        if self.recipe == "vega3d":
            return BackboneConfig.token_map(self, facts, image_height, image_width)
        from vega3d.pipeline.backbones.wan_reference import reference_token_map

        canvas = self.canvas(facts, image_height, image_width)
        return reference_token_map(image_height, image_width, *canvas, TOKEN_PX)

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the DiT and the encoder of its VAE."""
        from vega3d.pipeline.backbones.wan_networks import read_transformer, read_vae

        if numerics.device == "cpu" and self.dtype in ("tf32", "float8"):
            raise UsageError(f"dtype {self.dtype} is a GPU's; on a CPU take float32 or bfloat16")
        folded = self.recipe == "vega3d"
        transformer = read_transformer(folder / "transformer", max(facts.blocks), folded=folded)
        vae = read_vae(folder / "vae", alone=self.encodes_alone)
        return WanEncoder(self, (transformer, vae), facts, numerics, prompt["prompt_embeds"])


class WanEncoder:
    """Wan2.1's DiT, cut after the last tap, and the encoder of its VAE.

    Letters: V views, N latents (one a view, or fewer in context `clip`), z latent channels, h w
    tokens, C channels.
    """

    def __init__(
        self,
        config: WanConfig,
        models: "tuple[Any, Any]",
        facts: ModelFacts,
        numerics: Numerics,
        text_rows: "Float32[np.ndarray, 'L D']",
    ) -> None:
        """Take the two models, of diffusers' classes, apart, and the prompt through the text MLP.

        On a GPU what runs for every view is compiled, once for all sizes of a batch.
        """
        import torch

        from vega3d.pipeline.backbones.wan_levels import noise_level
        from vega3d.pipeline.backbones.wan_networks import WanTransformer, WanVae

        self.joint = config.context != "frame"
        self._config, self._facts, self._numerics = config, facts, numerics
        dtype, device = config.dtype, numerics.device
        self._vae = WanVae(models[1], device, alone=config.encodes_alone, dtype=dtype)
        self._dit = WanTransformer(models[0], max(facts.blocks), dtype, device)
        check_prompt(text_rows, int(facts.configs["transformer"]["text_dim"]))
        with torch.inference_mode():
            self._text = self._taken_in(text_rows)
            self._levels = {k: noise_level(self._dit, k, config.recipe) for k in config.timesteps}
        if numerics.device == "cuda" and numerics.compiled and config.recipe == "vega3d":
            self._vae.compile()
            self._dit.compile()

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'V h w C']]]":
        """Yield every tap of every noise level; nothing after the last block runs."""
        import torch

        from vega3d.pipeline.backbones.wan_levels import modulations, together

        if why := self._config.refusal(self._facts, views.canvas, len(views)):
            raise SceneError(why)
        latents = self.latents(views)
        first_view, latent_of_view = latent_views(len(views), self._config.context)
        named = views.select(first_view) if self._config.context == "clip" else views
        rows, cols = latents.shape[3] // 2, latents.shape[4] // 2
        room = 0 if self._config.recipe == "reference" else views.batch_size
        for sample in range(self._config.noise_samples):
            for levels in together(self._levels, len(latents), room):
                videos = [self._noised(latents, named, k, v[0], sample) for k, v in levels.items()]
                modulation = modulations(levels, len(videos[0]))
                for block, hidden in self._run_blocks(torch.cat(videos), modulation):
                    for timestep, part in zip(levels, hidden.chunk(len(levels)), strict=True):
                        tokens = part.reshape(-1, rows, cols, self._facts.channels)
                        if self._config.context == "clip":
                            tokens = tokens[latent_of_view]
                        yield tap_name(timestep, block, sample), tokens

    def _noised(
        self, latents: "Tensor", views: "Views", timestep: int, sigma: float, sample: int
    ) -> "Float32[Tensor, 'B z T h_lat w_lat']":
        """Mix noise into the latents; those that share a context are frames of one video."""
        shape = tuple(latents.shape[1:])
        eps = views.noise(self._config.noise_seed, timestep, sample, shape)
        video = (1 - sigma) * latents + sigma * eps  # N z 1 h_lat w_lat
        return video.transpose(0, 2) if self.joint else video  # 1 z N h_lat w_lat

    def _run_blocks(
        self, video: "Float32[Tensor, 'B z T h_lat w_lat']", modulation: "Tensor"
    ) -> "Iterator[tuple[int, Float32[Tensor, 'B tokens C']]]":
        # The release computes all of it under autocast; folded blocks have types of their own.
        dtype = self._config.dtype if self._config.recipe == "reference" else "float32"
        with autocast(dtype, self._numerics.device):
            hidden = self._dit.embed(video)
            yield from self._dit.run(
                hidden, video, self._text, modulation, frozenset(self._facts.blocks)
            )

    def _taken_in(self, rows: "Float32[np.ndarray, 'L D']") -> "Float[Tensor, '1 512 C'] | None":
        """Fold the prompt into the blocks; for the reference recipe return it for all 512 rows.

        It is padded with zero rows BEFORE the text MLP, and the blocks attend to all of them.

        Source: Wan-Video/Wan2.1, wan/modules/model.py, WanModel.forward.
        """
        import numpy as np

        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if self._config.recipe == "vega3d":
            self._dit.fold_prompt(rows, TEXT_ROWS)
            return None
        return self._dit.project_text(np.pad(rows, ((0, TEXT_ROWS - len(rows)), (0, 0))))

    def latents(self, views: "Views") -> "Float32[Tensor, 'N z 1 h_lat w_lat']":
        """Encode the views, each alone or all as one video, to normalised latents."""
        import torch

        if views.given and not self._config.encodes_alone:
            raise UsageError("latents go with context frame or stack of the recipe vega3d")
        if self._config.context == "clip":
            last = len(views) - 1
            padded = [min(frame, last) for frame in range(4 * ((last + 3) // 4) + 1)]
            video = self._pixels(views)[padded].transpose(0, 2)  # T 3 1 H W -> 1 3 T H W
            return self._encode(video).transpose(0, 2)
        batches = views.batches(views.batch_size)
        if self._config.encodes_alone:
            return torch.cat([batch.latents(self._vae.frame_latents) for batch in batches])
        return torch.cat([self._encode(self._pixels(batch)) for batch in batches])

    def _pixels(self, views: "Views") -> "Float[Tensor, 'V 3 1 rows cols']":
        """Bring views to the canvas, as values in [-1, 1]."""
        if self._config.recipe == "vega3d":
            return views.pixels().unsqueeze(2)
        from vega3d.pipeline.backbones.wan_reference import reference_pixels

        pixels = reference_pixels(views.rgb, *views.canvas, self._tower_dtype())
        return pixels.to(self._numerics.device)

    def _encode(
        self, video: "Float[Tensor, 'B 3 T H W']"
    ) -> "Float32[Tensor, 'B z t h_lat w_lat']":
        if self._config.recipe == "vega3d":
            return self._vae.latents(video)
        from vega3d.pipeline.backbones.wan_reference import reference_latents

        with autocast(self._config.dtype, self._numerics.device):
            mean = self._vae.posterior_mean(video.float())
        return reference_latents(mean, self._vae.mean, self._vae.std, self._tower_dtype())

    def _tower_dtype(self) -> "torch.dtype":
        import torch

        return torch.bfloat16 if self._config.dtype == "bfloat16" else torch.float32
