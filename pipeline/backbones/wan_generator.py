"""Wan's relatives through their classes' own forward: VACE, image-to-video, Wan2.2.

Text-to-video Wan2.1 has a faster way of its own (`wan.py`). What a relative is conditioned on comes
from its family's file, as a `Given`.
Letters: n views of a pass, z latent channels, T latents of a view's own video, h w tokens,
C channels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from vega3d.pipeline.backbones.encoder import Views
from vega3d.pipeline.backbones.generators import GeneratorConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.running import cut_after, in_bfloat16, norm_in_float32, run_taps
from vega3d.pipeline.backbones.settings import ModelFacts, tap_name
from vega3d.pipeline.backbones.wan_inputs import TEXT_ROWS, check_prompt
from vega3d.pipeline.backbones.wan_networks import WanVae
from vega3d.pipeline.backbones.weights import load_strictly


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Given:
    """What a pass works on."""

    latents: Float32[Tensor, "n z T h_lat w_lat"]
    """Clean; the last of the T is the view's own."""
    channels: Float32[Tensor, "n c T h_lat w_lat"] | None = None
    """Beside the noised latents."""
    arguments: Mapping[str, Tensor] = field(default_factory=dict)
    """Of the class's forward."""


Condition = Callable[[Views, Views], Given]
"""Views of a pass, and the scene's first view -> what the pass works on."""


class WanDit:
    """One transformer of the Wan kind, cut after the last tap, with the empty prompt's rows."""

    def __init__(
        self,
        cls: type,
        place: Path,
        taps: frozenset[int],
        rows: Float32[np.ndarray, "L D"],
        dtype: str,
        device: str,
    ) -> None:
        """Load it from its folder."""
        self.model: Any = load_strictly(cls, place, torch.float32)
        cut_after(self.model, "blocks", max(taps))
        _drop_after(self.model, max(taps))
        check_prompt(rows, int(self.model.config.text_dim))
        if dtype == "bfloat16":
            _hold_in_bfloat16(self.model)
        self.model.to(device)
        self._taps, self._device = taps, device
        padded = np.pad(rows, ((0, TEXT_ROWS - len(rows)), (0, 0)))
        self._text = torch.from_numpy(np.ascontiguousarray(padded, np.float32))[None].to(device)

    def run(
        self, hidden: Float32[Tensor, "n c T h_lat w_lat"], timestep: int, **arguments: Tensor
    ) -> Iterator[tuple[int, Float32[Tensor, "n tokens C"]]]:
        """Yield the output of each tapped block, all tokens of all T latents."""
        steps = torch.full((len(hidden),), float(timestep), device=self._device)
        text = self._text.expand(len(hidden), -1, -1)

        def forward() -> object:
            return self.model(
                hidden_states=hidden, timestep=steps, encoder_hidden_states=text, **arguments
            )

        following = {block: self.model.blocks[block + 1] for block in self._taps}
        for block, tokens in run_taps(forward, following):
            yield block, tokens.float()


class WanGenerator:
    """The VAE and one or two transformers; the tokens of each view's own latent are kept."""

    def __init__(
        self,
        config: GeneratorConfig,
        facts: ModelFacts,
        numerics: Numerics,
        vae: WanVae,
        choose: Callable[[int], WanDit],
        condition: Condition,
        *,
        joint: bool = False,
    ) -> None:
        """Take the parts.

        Args:
            config: Says which noise levels.
            facts: Of the model.
            numerics: Device and batch size.
            vae: Encodes the views.
            choose: The transformer of a timestep.
            condition: What a pass works on.
            joint: The scene's first view is the condition of all.
        """
        self.joint = joint
        self.vae, self.choose, self.condition = vae, choose, condition
        self._config, self._facts, self._numerics = config, facts, numerics

    def tokens(self, views: Views) -> Iterator[tuple[str, Float32[Tensor, "n h w C"]]]:
        """Yield every tap of every noise level, some views after the others."""
        first = views.select([0])
        for batch in views.batches(views.batch_size):
            given = self.condition(batch, first)
            shape = tuple(given.latents.shape[1:])
            for sample in range(self._config.noise_samples):
                for timestep in self._config.timesteps:
                    eps = batch.noise(self._config.noise_seed, timestep, sample, shape)
                    for block, tokens in self.features(given, eps, timestep):
                        yield tap_name(timestep, block, sample), tokens

    def features(
        self, given: Given, noise: Float32[Tensor, "n z T h_lat w_lat"], timestep: int
    ) -> Iterator[tuple[int, Float32[Tensor, "n h w C"]]]:
        """Yield the tokens of the last latent of each view's own video, block by block.

        Args:
            given: Clean latents and the condition.
            noise: Standard normal.
            timestep: k; sigma = k / 1000 (Eq. 4 of the paper).
        """
        sigma = timestep / 1000
        hidden = (1 - sigma) * given.latents + sigma * noise
        if given.channels is not None:
            hidden = torch.cat([hidden, given.channels], dim=1)
        rows, cols = hidden.shape[3] // 2, hidden.shape[4] // 2
        for block, tokens in self.choose(timestep).run(hidden, timestep, **given.arguments):
            yield block, tokens[:, -rows * cols :].reshape(len(tokens), rows, cols, -1)


def frame_latents(
    vae: WanVae, views: Views, *, rewritten: bool = True
) -> Float32[Tensor, "n z 1 h_lat w_lat"]:
    """Return the latents of views alone, by the rewritten encoder where there is one."""

    def encode(pixels: Float32[Tensor, "n 3 rows cols"]) -> Tensor:
        return vae.frame_latents(pixels) if rewritten else vae.latents(pixels.unsqueeze(2))

    return views.latents(encode)


def _drop_after(model: Any, last: int) -> None:  # noqa: ANN401 - diffusers is untyped here
    """Drop the head, and of VACE the hints that only later blocks are given."""
    del model.norm_out, model.proj_out, model.scale_shift_table
    if hasattr(model, "vace_blocks"):
        needed = [layer for layer in model.config.vace_layers if layer <= last]
        model.vace_blocks = model.vace_blocks[: len(needed)]
        model.register_to_config(vace_layers=needed)


def _hold_in_bfloat16(model: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
    """Cast the big matrices; norms, time, modulation and the residual stay float32."""
    in_bfloat16(_linears([model.condition_embedder.text_embedder]))
    blocks = [*model.blocks, *getattr(model, "vace_blocks", [])]
    in_bfloat16(_linears(blocks))
    norm_in_float32(
        norm
        for block in blocks
        for name, norm in block.named_modules()
        if name.endswith(("norm_q", "norm_k", "norm_added_k"))
    )


def _linears(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [one for module in modules for one in module.modules() if isinstance(one, nn.Linear)]
