"""OpenVLA's vision half: a DINOv2 and a SigLIP that were trained on with it, side by side.

The tap is what its language model gets before the projector: the penultimate layer of each, without
a norm, the class and register tokens left out, DINOv2's channels first. The two see the same pixels
with a mean and a spread each.

The published config names code of its own, which is never run: the pair is timm's, written in `vit`
under the published tensors' names.

Source: openvla/openvla, prismatic/extern/hf/modeling_prismatic.py (penultimate layers, order of
the pair, `ls1.scale_factor`); openvla/openvla-7b, config.json and preprocessor_config.json; sizes:
huggingface/pytorch-image-models, timm/models/vision_transformer.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vega3d.pipeline.backbones.checkpoints import read_config
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics, autocast
from vega3d.pipeline.backbones.preprocessing import HALVES, Statistics, checked_statistics
from vega3d.pipeline.backbones.settings import (
    BY_DEVICE,
    Canvas,
    Configs,
    Dtype,
    Fit,
    ModelFacts,
    Prompt,
    check_choices,
    check_resolution,
)
from vega3d.pipeline.backbones.towers import (
    TowerSizes,
    layer_flops,
    layer_parameters,
    round_products,
)
from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    from jaxtyping import Float32
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Views

_NAMES = ("featurizer", "fused_featurizer")
_UNREAD = re.compile(
    r"(language_model|projector|model|lm_head)\..*"
    r"|vision_backbone\.fused_featurizer\.attn_pool\..*"
    r"|vision_backbone\.(fused_)?featurizer\.norm\..*"
)
"""The language model, the projector, and what comes after the tap: SigLIP's pooling, last norms."""

PREFIX = "vision_backbone."
RENAMED = {"scale_factor": "gamma", "reg_token": "register_tokens"}
_STATISTICS: tuple[Statistics, Statistics] = (
    ((0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)),
    HALVES,
)
"""ImageNet's in bfloat16, and halves: what preprocessor_config.json of openvla-7b has."""

_DINO = {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096, "registers": 4}
_SIGLIP = {"width": 1152, "depth": 27, "heads": 16, "mlp": 4304, "registers": 0}
_TIMM: Mapping[str, Mapping[str, int]] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": _DINO,
    "vit_so400m_patch14_siglip_224": _SIGLIP,
}
_PUBLISHED: Configs = {
    ".": {
        "model_type": "openvla",
        "use_fused_vision_backbone": True,
        "timm_model_ids": list(_TIMM),
        "image_sizes": [224, 224],
        "timm_override_act_layers": [None, None],
    }
}
_PATCH = 14


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenvlaVisionConfig(BackboneConfig):
    """Settings of OpenVLA's vision pair, trained on robots' actions."""

    name: ClassVar[str] = "openvla-vision"
    classes: ClassVar[str] = "ours (timm's tensor names)"
    licence: ClassVar[str] = "MIT"
    parts: ClassVar[tuple[str, ...]] = (".",)
    reads: ClassVar[str] = r"vision_backbone\..*"
    ignores_code: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Configs]] = {"openvla/openvla-7b": _PUBLISHED}

    model: str = "openvla/openvla-7b"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

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
        check_resolution(self.resolution)

    def pair(self, config: Mapping[str, Any]) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Return the sizes of DINOv2 and of SigLIP.

        `featurizers` gives them for small models in the same layout.
        """
        if config.get("model_type") != "openvla" or not config.get("use_fused_vision_backbone"):
            raise CheckpointError(
                "must be an openvla model with two vision encoders (use_fused_vision_backbone), "
                f"found {config.get('model_type')!r}"
            )
        if any(config.get("timm_override_act_layers") or ()):
            raise CheckpointError("timm_override_act_layers other than null are not known here")
        names = config["timm_model_ids"]
        found = config.get("featurizers") or [_TIMM.get(name) for name in names]
        if len(found) != 2 or None in found:
            raise CheckpointError(f"timm_model_ids must be {list(_TIMM)}, found {names}")
        return found[0], found[1]

    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know."""
        config = configs["."]
        pair, sides = self.pair(config), {int(side) for side in config["image_sizes"]}
        if len(sides) != 1:
            raise CheckpointError(f"image_sizes must be one, found {config['image_sizes']}")
        native = sides.pop()
        towers = [_sizes(one, native) for one in pair]
        blocks = pair[0]["depth"] - 1
        return ModelFacts(
            channels=sum(tower.width for tower in towers),
            num_blocks=blocks,
            blocks=(blocks - 1,),
            taps=("penultimate",),
            token_px=_PATCH,
            auto_tokens=(native // _PATCH) ** 2,
            native_px=native,
            parameters=sum(tower.embeddings + tower.layers * tower.layer for tower in towers),
            configs=configs,
        )

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count both encoders up to their penultimate layers."""
        tokens = (canvas[0] // _PATCH) * (canvas[1] // _PATCH)
        total = 0.0
        for one in self.pair(facts.configs["."]):
            tower = _sizes(one, facts.native_px)
            total += 2 * tokens * tower.width * 3 * _PATCH**2
            total += tower.layers * layer_flops(tower, tokens + tower.prefix)
        return total

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "OpenvlaVisionEncoder":
        """Return the pair, each cut after its penultimate layer."""
        return OpenvlaVisionEncoder(self, folder, facts, numerics)


def _sizes(one: Mapping[str, int], native_px: int) -> TowerSizes:
    """Return the sizes of one encoder, of the layers that run."""
    width, registers = one["width"], one["registers"]
    prefix = 1 + registers if registers else 0
    places = (native_px // _PATCH) ** 2
    return TowerSizes(
        width=width,
        layers=one["depth"] - 1,
        mlp=one["mlp"],
        patch=_PATCH,
        native_px=native_px,
        prefix=prefix,
        embeddings=(3 * _PATCH**2 + 1 + prefix + places) * width,
        layer=layer_parameters(width, one["mlp"], scales=2 if registers else 0),
    )


class OpenvlaVisionEncoder:
    """The pair, each cut after its penultimate layer."""

    joint = False

    def __init__(
        self, config: OpenvlaVisionConfig, folder: Path, facts: ModelFacts, numerics: Numerics
    ) -> None:
        """Load both, checked; the last layers are checked and not read."""
        import torch

        from vega3d.pipeline.backbones.tensors import read_into

        pair = dict(zip(_NAMES, config.pair(facts.configs["."]), strict=True))
        with torch.device("meta"):
            towers = pair_of_towers(list(pair.values()), facts.native_px)
        last = tuple(f"{name}.blocks.{one['depth'] - 1}." for name, one in pair.items())
        read_into(
            towers,
            folder,
            prefix=PREFIX,
            renamed=RENAMED,
            unread=_UNREAD,
            needed=lambda name: not name.startswith(last),
        )
        for tower in towers.values():
            tower.blocks = tower.blocks[:-1]
            if config.dtype == "bfloat16":
                round_products(tower)
        self._towers = [tower.to(numerics.device) for tower in towers.values()]
        self._statistics = _pair_statistics(folder)
        self._facts, self._dtype, self._device = facts, config.dtype, numerics.device

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield both encoders' penultimate tokens, side by side."""
        import torch

        rows, cols = (side // _PATCH for side in views.canvas)
        parts = []
        for tower, statistics in zip(self._towers, self._statistics, strict=True):
            hidden = tower.embed(views.pixels(*statistics))
            with autocast(self._dtype, self._device):
                for block in tower.blocks:
                    hidden = block(hidden)
            parts.append(hidden[:, tower.prefix :].float())
        yield "penultimate", torch.cat(parts, dim=-1).reshape(len(views), rows, cols, -1)


def pair_of_towers(pair: Sequence[Mapping[str, int]], native_px: int) -> Any:  # noqa: ANN401
    """Return the two encoders as one module, without the last norms, which come after the tap."""
    from torch.nn import ModuleDict

    from vega3d.pipeline.backbones.vit import VisionTransformer, VitSizes

    towers = {}
    for name, one in zip(_NAMES, pair, strict=True):
        sizes = VitSizes(
            width=one["width"],
            depth=one["depth"],
            heads=one["heads"],
            mlp=one["mlp"],
            patch=_PATCH,
            side=native_px // _PATCH,
            registers=one["registers"],
            class_token=one["registers"] > 0,
            class_position=False,
            scales=one["registers"] > 0,
        )
        towers[name] = VisionTransformer(sizes)
        del towers[name].norm
    return ModuleDict(towers)


def _pair_statistics(folder: Path) -> tuple[Statistics, Statistics]:
    """Return mean and std for DINOv2 and for SigLIP, the checkpoint's own."""
    path = folder / "preprocessor_config.json"
    config = read_config(folder, ".", path.name) if path.is_file() else {}
    given = config.get("tvf_normalize_params")
    if given is None:
        return _STATISTICS
    if not isinstance(given, list) or [type(one) for one in given] != [dict, dict]:
        raise CheckpointError(f"{path}: tvf_normalize_params must be two, got {given!r}")
    first, second = (checked_statistics(path, one.get("mean"), one.get("std")) for one in given)
    return first, second
