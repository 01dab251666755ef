"""What vision transformers of transformers share: settings, costs, and running up to a tap.

A family derives its config from `TowerConfig`, says its `sizes`, and gives `Tower` its parts. A tap
is the output of a layer, its class and register tokens left out; layers after the last tap are
dropped. Letters: n views, h w tokens, N tokens with those in front, C channels.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics, autocast
from vega3d.pipeline.backbones.preprocessing import Statistics
from vega3d.pipeline.backbones.settings import (
    BY_DEVICE,
    Canvas,
    Configs,
    Dtype,
    Fit,
    ModelFacts,
    block_taps,
    check_blocks,
    check_choices,
    check_resolution,
    resolve_blocks,
)
from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    from jaxtyping import Float32
    from torch import Tensor
    from torch.nn import Module

    from vega3d.pipeline.backbones.encoder import Views


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerSizes:
    """What of a config.json decides shapes and costs."""

    width: int
    layers: int
    mlp: int
    """Width of the feed-forward part."""

    gated: bool = False
    """The feed-forward part has three matrices, one of them a gate."""

    patch: int
    native_px: int
    prefix: int = 0
    """Class and register tokens, in front of the image's."""

    embeddings: int
    """Parameters in front of the first layer, up to the patch embedding and the positions."""

    layer: int
    """Parameters of one layer."""

    patch_inputs: int = 3
    """Values of a patch's pixel; twice as many where two frames are embedded together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerConfig(BackboneConfig):
    """Settings of a vision transformer."""

    model: str = ""
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (-1,)
    """Layers whose OUTPUT is kept, from 0; negative counts from the end."""

    resolution: tuple[int, int] | Literal["auto", "native"] = "native"
    """Size of the input, px, rows first in Python; `native` is the checkpoint's own square, `auto`
    keeps each image's aspect at about the token count of that."""

    fit: Fit = "pad"
    """How an image of another aspect gets there: pad (all of it is seen), crop, stretch."""

    dtype: Dtype = field(default="float32", metadata=BY_DEVICE)
    """Precision of the matrix products; norms and the residual stay float32."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        check_blocks(self.blocks)
        check_resolution(self.resolution)

    @abstractmethod
    def sizes(self, config: Mapping[str, Any]) -> TowerSizes:
        """Return the sizes that a config.json gives; raises CheckpointError for another class's."""

    @property
    def norms(self) -> bool:
        """Whether the model's last norm is applied to every tap."""
        return bool(getattr(self, "final_norm", False))

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know."""
        sizes = self.sizes(configs["."])
        blocks = resolve_blocks(self.blocks, sizes.layers)
        norm = 2 * sizes.width if self.norms else 0
        return ModelFacts(
            channels=sizes.width,
            num_blocks=sizes.layers,
            blocks=blocks,
            taps=block_taps(blocks),
            token_px=sizes.patch,
            auto_tokens=(sizes.native_px // sizes.patch) ** 2,
            native_px=sizes.native_px,
            parameters=sizes.embeddings + (max(blocks) + 1) * sizes.layer + norm,
            configs=configs,
        )

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count patch embedding and layers up to the last tap."""
        sizes = self.sizes(facts.configs["."])
        tokens = (canvas[0] // sizes.patch) * (canvas[1] // sizes.patch)
        embed = 2 * tokens * sizes.width * sizes.patch_inputs * sizes.patch**2
        return float(embed + (max(facts.blocks) + 1) * layer_flops(sizes, tokens + sizes.prefix))


def layer_flops(sizes: TowerSizes, tokens: int, seen: int = 0) -> float:
    """Count one layer over some tokens, each attending to all of them or to `seen`."""
    matrices = 3 if sizes.gated else 2
    products = 8 * sizes.width**2 + 2 * matrices * sizes.width * sizes.mlp
    return tokens * (products + 4 * (seen or tokens) * sizes.width)


def layer_parameters(
    width: int, mlp: int, *, gated: bool = False, biases: int = 4, scales: int = 0
) -> int:
    """Count one layer: four attention matrices, the feed-forward part, two norms.

    Args:
        width: Of the tokens.
        mlp: Of the feed-forward part, whose matrices have biases.
        gated: It has three matrices.
        biases: Attention matrices that have one.
        scales: Vectors that scale what a part adds to the residual.
    """
    attention = 4 * width**2 + biases * width
    ups = 2 if gated else 1
    forward = (ups + 1) * width * mlp + ups * mlp + width
    return attention + forward + 4 * width + scales * width


def square(value: Any) -> int:  # noqa: ANN401 - plain JSON
    """Return the side of a square size, which some configs write as a pair."""
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise CheckpointError(f"sizes must be square, got {value}")
    return int(sides.pop())


def check_model_type(config: Mapping[str, Any], *known: str) -> str:
    """Return a config.json's model type, one of those known."""
    found = config.get("model_type")
    if found not in known:
        raise CheckpointError(f"model_type must be one of {list(known)}, found {found!r}")
    return str(found)


@dataclass(frozen=True, kw_only=True)
class TowerParts:
    """The parts of a loaded model that run."""

    embed: "Callable[[Tensor], tuple[Tensor, Mapping[str, Any]]]"
    """Normalised pixels [n, 3, H, W] to tokens [n, N, C], and what every layer is given beside."""

    layers: Any
    """A ModuleList, of which those up to the last tap are kept."""

    norm: "Module | None"
    """Applied to every tap; None leaves them as they are."""

    prefix: int
    """Tokens in front of the image's."""


class Tower:
    """A vision transformer cut after the last tap, each view alone."""

    joint = False

    def __init__(
        self,
        parts: TowerParts,
        facts: ModelFacts,
        numerics: Numerics,
        dtype: str,
        statistics: Statistics,
    ) -> None:
        """Keep what runs, on its device."""
        self._embed, self._prefix, self._statistics = parts.embed, parts.prefix, statistics
        self._layers = parts.layers[: max(facts.blocks) + 1].to(numerics.device)
        self._norm = parts.norm.to(numerics.device) if parts.norm else None
        if dtype == "bfloat16":
            round_products(self._layers)
        self._facts, self._dtype, self._device = facts, dtype, numerics.device

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield the output of each tapped layer."""
        patch = self._facts.token_px
        rows, cols = views.canvas[0] // patch, views.canvas[1] // patch
        hidden, beside = self._embed(views.pixels(*self._statistics))
        with autocast(self._dtype, self._device):
            for index, layer in enumerate(self._layers):
                hidden = layer(hidden, **beside)
                if index in self._facts.blocks:
                    tokens = self._norm(hidden) if self._norm else hidden
                    kept = tokens[:, self._prefix :].float()
                    yield f"b{index}", kept.reshape(len(views), rows, cols, -1)


def round_products(layers: "Module") -> None:
    """Keep the weights of matrix products in bfloat16; norms and scales stay float32."""
    import torch

    for part in layers.modules():
        if isinstance(part, torch.nn.Linear):
            part.to(torch.bfloat16)
