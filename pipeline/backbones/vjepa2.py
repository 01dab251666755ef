"""V-JEPA 2 video encoders, ViT-L to ViT-g: 2-frame tubelets mapped back to views.

Alone, a view is its own tubelet, shown twice. A tap is the output of a layer, through the model's
last norm. The released code makes pairs of 32 views and gives both views of a pair the same
features (`--context clip` here); its weights are taken where 3 % of them fit.

Source: transformers 5, VJEPA2Model; facts of the released code: H-EmbodVis/VEGA-3D @ 9c96924.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vega3d.pipeline.backbones.numerics import Numerics, autocast
from vega3d.pipeline.backbones.preprocessing import IMAGENET, image_statistics
from vega3d.pipeline.backbones.settings import Canvas, Configs, ModelFacts, Prompt
from vega3d.pipeline.backbones.towers import (
    TowerConfig,
    TowerSizes,
    check_model_type,
    layer_flops,
    layer_parameters,
    round_products,
    square,
)
from vega3d.pipeline.errors import CheckpointError

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64
    from torch import Tensor

    from vega3d.pipeline.backbones.encoder import Views

_HEADS = re.compile(r"(pooler|classifier)\..*")
"""Of checkpoints that were trained on to name actions (`-ssv2`, `-diving48`)."""

_TUBELET = 2


def _published(width: int, layers: int, mlp: int, heads: int, side: int) -> Configs:
    """Return a published config.json.

    Source: transformers, models/vjepa2/convert_vjepa2_to_hf.py (get_vjepa2_config);
    facebookresearch/vjepa2, src/models/vision_transformer.py (vit_large, vit_huge,
    vit_giant_xformers: 1408 wide, 40 layers, 22 heads, mlp_ratio 48 / 11).
    """
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "mlp_ratio": mlp / width}
    more = {"num_attention_heads": heads, "crop_size": side, "patch_size": 16, "tubelet_size": 2}
    return {".": {"model_type": "vjepa2", "frames_per_clip": 64, **sizes, **more}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Vjepa2Config(TowerConfig):
    """Settings of V-JEPA 2, a self-supervised video encoder."""

    name: ClassVar[str] = "vjepa2"
    classes: ClassVar[str] = "VJEPA2Model"
    licence: ClassVar[str] = "MIT"  # the two ViT-g that were not trained on are Apache-2.0
    parts: ClassVar[tuple[str, ...]] = (".",)
    published: ClassVar[Mapping[str, Configs]] = {
        "facebook/vjepa2-vitl-fpc64-256": _published(1024, 24, 4096, 16, 256),
        "facebook/vjepa2-vith-fpc64-256": _published(1280, 32, 5120, 16, 256),
        "facebook/vjepa2-vitg-fpc64-256": _published(1408, 40, 6144, 22, 256),
        "facebook/vjepa2-vitg-fpc64-384": _published(1408, 40, 6144, 22, 384),
        "facebook/vjepa2-vitg-fpc64-384-ssv2": _published(1408, 40, 6144, 22, 384),
    }

    model: str = "facebook/vjepa2-vitl-fpc64-256"
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    context: Literal["frame", "clip", "stack"] = "frame"
    """Which views the encoder sees together: each alone, shown twice; clip: all of a scene as one
    video, neighbours sharing a tubelet and its features; stack: all as one video, each shown twice,
    with features of its own."""

    final_norm: bool = True
    """Apply the model's last norm to every tap, as its output has it."""

    def sizes(self, config: Mapping[str, Any]) -> TowerSizes:
        """Return the sizes that a config.json gives."""
        check_model_type(config, "vjepa2")
        # A published config.json holds only what differs from the class's defaults.
        # Source: transformers 5, VJEPA2Config.
        if int(config.get("tubelet_size", _TUBELET)) != _TUBELET:
            raise CheckpointError(f"tubelet_size must be 2, found {config['tubelet_size']}")
        width, patch = int(config.get("hidden_size", 1024)), square(config.get("patch_size", 16))
        mlp = int(width * config.get("mlp_ratio", 4.0))
        biases = 4 if config.get("qkv_bias", True) else 1
        return TowerSizes(
            width=width,
            layers=int(config.get("num_hidden_layers", 24)),
            mlp=mlp,
            patch=patch,
            native_px=square(config.get("crop_size", 256)),
            embeddings=(3 * _TUBELET * patch**2 + 1) * width,
            layer=layer_parameters(width, mlp, biases=biases),
            patch_inputs=3 * _TUBELET,
        )

    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Count patch embedding and layers up to the last tap; a shared tubelet costs half."""
        sizes = self.sizes(facts.configs["."])
        tokens = (canvas[0] // sizes.patch) * (canvas[1] // sizes.patch)
        tubelets = {"frame": 1, "stack": num_views, "clip": -(-num_views // _TUBELET)}
        layers = (max(facts.blocks) + 1) * layer_flops(
            sizes, tokens, tubelets[self.context] * tokens
        )
        embed = 2 * tokens * sizes.width * sizes.patch_inputs * sizes.patch**2
        share = tubelets["clip"] / num_views if self.context == "clip" else 1.0
        return share * (embed + layers)

    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Vjepa2Encoder":
        """Return the encoder, cut after the last tap, without the predictor."""
        return Vjepa2Encoder(self, folder, facts, numerics)


class Vjepa2Encoder:
    """V-JEPA 2's encoder, cut after the last tap."""

    def __init__(
        self, config: Vjepa2Config, folder: Path, facts: ModelFacts, numerics: Numerics
    ) -> None:
        """Load the whole model, checked, and keep the encoder's layers that a tap needs."""
        import torch
        from transformers import VJEPA2Model

        from vega3d.pipeline.backbones.weights import load_strictly

        encoder = load_strictly(VJEPA2Model, folder, torch.float32, may_skip=_HEADS).encoder
        self._embeddings = encoder.embeddings.to(numerics.device)
        self._layers = encoder.layer[: max(facts.blocks) + 1].to(numerics.device)
        self._norm = encoder.layernorm.to(numerics.device) if config.final_norm else None
        if config.dtype == "bfloat16":
            round_products(self._layers)
        self.joint = config.context != "frame"
        self._config, self._facts, self._device = config, facts, numerics.device
        self._statistics = image_statistics(folder, IMAGENET)

    def tokens(self, views: "Views") -> "Iterator[tuple[str, Float32[Tensor, 'n h w C']]]":
        """Yield the output of each tapped layer, a tubelet's tokens for each of its views."""
        patch = self._facts.token_px
        rows, cols = views.canvas[0] // patch, views.canvas[1] // patch
        video = self._video(views.pixels(*self._statistics))
        hidden = self._embeddings(video)
        places = self._places(video.shape[1] // _TUBELET, rows, cols).expand(len(video), -1)
        with autocast(self._config.dtype, self._device):
            for index, layer in enumerate(self._layers):
                hidden = layer(hidden, places)[0]
                if index in self._facts.blocks:
                    tokens = self._norm(hidden) if self._norm else hidden
                    tubelets = tokens.float().reshape(-1, rows, cols, tokens.shape[-1])
                    if self._config.context == "clip":
                        tubelets = tubelets.repeat_interleave(_TUBELET, dim=0)
                    yield f"b{index}", tubelets[: len(views)]

    def _video(self, pixels: "Float32[Tensor, 'n 3 H W']") -> "Float32[Tensor, 'b t 3 H W']":
        """Return the videos that go through: a view each, or one of them all."""
        import torch

        if self._config.context == "frame":
            return pixels[:, None].expand(-1, _TUBELET, -1, -1, -1)
        if self._config.context == "stack":
            return pixels.repeat_interleave(_TUBELET, dim=0)[None]
        rest = len(pixels) % _TUBELET  # an odd last view is its own tubelet
        return torch.cat([pixels, pixels[len(pixels) - rest :]])[None]

    def _places(self, tubelets: int, rows: int, cols: int) -> "Int64[Tensor, '1 N']":
        """Return where each token stands, counted in a square grid as the layers count back.

        They know time, row and column of a token by its number in the checkpoint's square alone:
        on an input of another shape, numbers in order would put tokens into other rows.
        """
        import torch

        side = max(rows, cols)
        for layer in self._layers:
            layer.attention.grid_size = side
        time, row, col = torch.meshgrid(
            *(torch.arange(count, device=self._device) for count in (tubelets, rows, cols)),
            indexing="ij",
        )
        return (time * side**2 + row * side + col).flatten()[None]
