"""Every registered encoder with a small random checkpoint that its real classes wrote."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_encoders import write_openvla, write_vggt

from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.small.encoders import (
    write_clip,
    write_dinov2,
    write_dinov3,
    write_qwen,
    write_siglip2,
    write_vjepa2,
)
from vega3d.pipeline.backbones.small.pictures import write_flux, write_sd, write_sd_vae, write_svd
from vega3d.pipeline.backbones.small.videos import (
    write_cogvideox,
    write_cosmos,
    write_hunyuan,
    write_ltx,
)
from vega3d.pipeline.backbones.small.wan import (
    write_i2v,
    write_ti2v,
    write_vace,
    write_wan22,
    write_wan22_i2v,
    write_wan_vae,
)
from vega3d.pipeline.backbones.tiny import write_tiny_siglip, write_tiny_wan


@dataclass(frozen=True)
class Small:
    """How the shared suite makes and loads one encoder."""

    write: Callable[[Path], None] | None
    """Writes a checkpoint; None where the encoder has no weights."""

    early: Mapping[str, Any] = field(default_factory=dict)
    """Settings of an early tap: the deeper a random network, the wider it spreads what it sees."""

    sees: bool = True
    """Its features change with the pixels."""

    unread: str = r".*(text_model|logit|_projection).*"
    """Tensors of the checkpoint that the encoder does not read, such as a text half."""

    prompt: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {"prompt_embeds": (1, 4096)}
    )
    """Shapes of the published model's prompt."""

    folds: bool = False
    """Rewrites its weights when loading, so that it holds fewer than its facts count."""


WAN = {"blocks": (1,), "resolution": (96, 128)}
NO_DECODER = r"(decoder|post_quant_conv)\..*|.*(text_model|logit|_projection).*"
"""Unread where a Wan VAE sees views alone."""

SMALL: dict[str, Small] = {
    "wan2.1-t2v": Small(
        write_tiny_wan,
        {"blocks": (1,), "resolution": (240, 320)},
        unread=NO_DECODER,
        folds=True,
    ),
    "wan2.1-vace": Small(write_vace, WAN, unread=NO_DECODER, folds=True),
    "wan2.1-i2v": Small(write_i2v, {**WAN, "context": "frame"}, unread=NO_DECODER, folds=True),
    "wan2.2-t2v": Small(
        write_wan22, {**WAN, "timesteps": (300, 900)}, unread=NO_DECODER, folds=True
    ),
    "wan2.2-i2v": Small(
        write_wan22_i2v,
        {**WAN, "context": "frame", "timesteps": (300, 900)},
        unread=NO_DECODER,
        folds=True,
    ),
    "wan2.2-ti2v": Small(write_ti2v, {"blocks": (1,), "resolution": (96, 128)}),
    "wan-vae": Small(write_wan_vae, {"resolution": (96, 128)}, unread=NO_DECODER, folds=True),
    "svd": Small(write_svd, {"blocks": (1,), "resolution": (128, 192)}),
    "sd2.1": Small(
        write_sd, {"blocks": (1,), "resolution": (128, 192)}, prompt={"prompt_embeds": (77, 1024)}
    ),
    "flux": Small(
        write_flux,
        {**WAN, "text_rows": 8},
        prompt={"prompt_embeds": (256, 4096), "pooled_prompt_embeds": (768,)},
    ),
    "cogvideox": Small(write_cogvideox, WAN, prompt={"prompt_embeds": (226, 4096)}),
    "hunyuan-video": Small(
        write_hunyuan,
        WAN,
        prompt={"prompt_embeds": (5, 4096), "pooled_prompt_embeds": (768,)},
    ),
    "ltx-video": Small(write_ltx, WAN),
    "cosmos-predict2": Small(
        write_cosmos,
        WAN,
        unread=NO_DECODER,
        prompt={"prompt_embeds": (1, 1024)},
        folds=True,
    ),
    "sd-vae": Small(write_sd_vae, {"resolution": (96, 128)}),
    "siglip": Small(write_tiny_siglip, {"blocks": (1,)}),
    "siglip2": Small(write_siglip2, {"blocks": (1,)}),
    "dinov2": Small(write_dinov2, {"blocks": (1,)}),
    "dinov3": Small(write_dinov3, {"blocks": (1,)}),
    "clip": Small(write_clip, {"blocks": (1,)}),
    "vjepa2": Small(write_vjepa2, {"blocks": (1,)}),
    "qwen2.5-vl-vision": Small(
        write_qwen,
        {"blocks": (1,), "resolution": (84, 112)},
        unread=r"(lm_head|model|language_model)\..*",
    ),
    "vggt": Small(
        write_vggt,
        {"blocks": (1,), "context": "frame", "resolution": (28, 42)},
        unread=r"camera_head.*|.*mask_token",
    ),
    "openvla-vision": Small(
        write_openvla,
        unread=r"language_model.*|projector.*|.*(attn_pool|featurizer\.norm).*",
    ),
    "rgb": Small(None),
    "position": Small(None, sees=False),
    "random": Small(None, sees=False),
}
"""A new encoder adds its line here, and the suite takes it up."""


class SmallModels:
    """Small checkpoints, each written when first asked for."""

    def __init__(self, folder: Path) -> None:
        """Keep them below a folder."""
        self._folder = folder

    def model(self, name: str) -> dict[str, str]:
        """Return the setting that names the checkpoint; none where there are no weights."""
        write = SMALL[name].write
        if write is None:
            return {}
        place = self._folder / name
        if not place.exists():
            write(place)
        return {"model": str(place)}

    def load(self, name: str, **settings: object) -> Backbone:
        """Load an encoder, at its early tap where nothing else is said."""
        return load_backbone(name, **{**self.model(name), **SMALL[name].early, **settings})
