"""Wan2.2: text- and image-to-video of two experts, and the 5B model with a VAE of 16 x 16 px.

The two experts share the noise levels: `transformer` has those from boundary_ratio * 1000 on,
`transformer_2` those below (diffusers, pipeline_wan.py). Each view is a video of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vega3d.pipeline.backbones.checkpoints import INDEX, check_class
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import Configs, ModelFacts, Prompt
from vega3d.pipeline.backbones.wan_family import (
    DIT_5B,
    DIT_14B,
    VAE_2_1,
    VAE_2_2,
    WanFamilyConfig,
)
from vega3d.pipeline.backbones.wan_i2v import MASK_CHANNELS, image_given
from vega3d.pipeline.backbones.wan_parameters import dit_parameters
from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.encoder import Encoder, Views
    from vega3d.pipeline.backbones.wan_generator import Given

_HIGH, _LOW = "transformer", "transformer_2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wan22Config(WanFamilyConfig):
    """Settings of Wan2.2 text-to-video, two experts of 14B."""

    name: ClassVar[str] = "wan2.2-t2v"
    classes: ClassVar[str] = "WanTransformer3DModel (two), AutoencoderKLWan"
    parts: ClassVar[tuple[str, ...]] = (_HIGH, _LOW, "vae")
    published: ClassVar[Mapping[str, Configs]] = {
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers": {
            _HIGH: DIT_14B,
            _LOW: DIT_14B,
            "vae": VAE_2_1,
            INDEX: {"boundary_ratio": 0.875},
        },
    }
    """Source: Wan-Video/Wan2.2, wan/configs/wan_t2v_A14B.py (boundary)."""

    model: str = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (20,)
    """Blocks whose OUTPUT is kept, from 0; negative counts from the end (-1 is the last)."""

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know, from the parts' config.json."""
        second = check_class(configs, _LOW, self.dit_class)
        first = configs[_HIGH]
        sizes = ("num_layers", "num_attention_heads", "attention_head_dim", "in_channels")
        if [first.get(name) for name in sizes] != [second.get(name) for name in sizes]:
            raise CheckpointError(f"{_LOW}: must be of the size of {_HIGH}")
        boundary(configs)
        return WanFamilyConfig.describe(self, configs)

    def parameters(self, configs: Configs, last: int) -> int:
        """Count those of the experts that the timesteps need."""
        one = dit_parameters(configs[_HIGH], last + 1)
        needed = len({k >= boundary(configs) for k in self.timesteps})
        return WanFamilyConfig.parameters(self, configs, last) + (needed - 1) * one

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the experts that the timesteps need, and the encoder of the VAE."""
        return _experts(self, folder, facts, numerics, prompt, self.expert_of(facts))

    def expert_of(self, facts: ModelFacts) -> dict[int, str]:
        """Return which expert has each timestep."""
        limit = boundary(facts.configs)
        return {k: _HIGH if k >= limit else _LOW for k in self.timesteps}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wan22ImageConfig(Wan22Config):
    """Settings of Wan2.2 image-to-video, two experts of 14B; unlike Wan2.1's they read no CLIP."""

    name: ClassVar[str] = "wan2.2-i2v"
    published: ClassVar[Mapping[str, Configs]] = {
        "Wan-AI/Wan2.2-I2V-A14B-Diffusers": {
            _HIGH: {**DIT_14B, "in_channels": 36},
            _LOW: {**DIT_14B, "in_channels": 36},
            "vae": VAE_2_1,
            INDEX: {"boundary_ratio": 0.9},
        },
    }
    """Source: Wan-Video/Wan2.2, wan/configs/wan_i2v_A14B.py (boundary)."""

    model: str = "Wan-AI/Wan2.2-I2V-A14B-Diffusers"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    context: Literal["first", "frame"] = "first"
    """What a view is seen with: the scene's first view as the condition, or itself."""

    def own_channels(self, dit: Mapping[str, Any]) -> int:
        """Return how many of the transformer's input channels are the noised latent's."""
        channels, odd = divmod(int(dit["in_channels"]) - MASK_CHANNELS, 2)
        if odd or channels < 1 or dit.get("image_dim"):
            raise CheckpointError(
                f"transformer: must read an image's latent and no CLIP tokens, found in_channels "
                f"{dit['in_channels']}, image_dim {dit.get('image_dim')}"
            )
        return channels

    def num_latents(self) -> int:
        """Return the latents of one view's own video."""
        return 2 if self.context == "first" else 1

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the experts that the timesteps need, and the encoder of the VAE."""
        return _experts(
            self, folder, facts, numerics, prompt, self.expert_of(facts), self.context == "first"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Wan22SmallConfig(WanFamilyConfig):
    """Settings of Wan2.2's 5B model, here without an image."""

    name: ClassVar[str] = "wan2.2-ti2v"
    classes: ClassVar[str] = "WanTransformer3DModel, AutoencoderKLWan"
    multiple: ClassVar[int] = 32
    published: ClassVar[Mapping[str, Configs]] = {
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers": {"transformer": DIT_5B, "vae": VAE_2_2},
    }

    model: str = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (20,)
    """Blocks whose OUTPUT is kept, from 0; negative counts from the end (-1 is the last)."""

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the transformer and the encoder of its VAE.

        The pipeline gives every token a timestep of its own, all alike where there is no image:
        one timestep a view is the same.
        """
        chosen = dict.fromkeys(self.timesteps, "transformer")
        return _experts(self, folder, facts, numerics, prompt, chosen)


def boundary(configs: Configs) -> float:
    """Return the timestep from which on the first expert is asked.

    Raises:
        CheckpointError: The pipeline's model_index.json does not say.
    """
    ratio: Any = configs.get(INDEX, {}).get("boundary_ratio")
    if not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise CheckpointError(
            f"{INDEX} must give boundary_ratio, the share of the noise levels below which "
            f"{_LOW} is asked; found {ratio!r}"
        )
    return 1000.0 * ratio


def _experts(
    config: WanFamilyConfig,
    folder: Path,
    facts: ModelFacts,
    numerics: Numerics,
    prompt: Prompt,
    expert_of: Mapping[int, str],
    joint: bool | None = None,
) -> "Encoder":
    """Load the experts that are needed.

    Args:
        config: Which noise levels.
        folder: Of the parts.
        facts: Of the model.
        numerics: Device and batch size.
        prompt: Rows of the empty prompt.
        expert_of: Timestep -> folder of its transformer.
        joint: They read an image: the scene's first view, or each view itself; None for no image.
    """
    from diffusers import WanTransformer3DModel

    from vega3d.pipeline.backbones.wan_generator import Given, WanDit, WanGenerator, frame_latents
    from vega3d.pipeline.backbones.wan_networks import WanVae

    rewritten = facts.configs["vae"].get("patch_size") is None
    vae = WanVae(folder / "vae", numerics.device, alone=rewritten)
    experts = {
        name: WanDit(
            WanTransformer3DModel,
            folder / name,
            frozenset(facts.blocks),
            prompt["prompt_embeds"],
            config.dtype,
            numerics.device,
        )
        for name in dict.fromkeys(expert_of.values())
    }

    def condition(views: "Views", first: "Views") -> "Given":
        if joint is None:
            return Given(latents=frame_latents(vae, views, rewritten=rewritten))
        return image_given(vae, None, views, first if joint else None)

    return WanGenerator(
        config,
        facts,
        numerics,
        vae,
        lambda k: experts[expert_of[k]],
        condition,
        joint=bool(joint),
    )
