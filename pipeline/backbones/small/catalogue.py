"""Every encoder's small checkpoint, by name: who writes it, and which settings go with its sizes.

Standard library only, until one is written.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from vega3d.pipeline.backbones.settings import DESK
from vega3d.pipeline.files import whole_folder

_WIDE = (192, 256)
"""Of 16 px a token: 12 rows and 16 columns."""
_PATCHES = (168, 224)
"""Of 14 px a token: 12 rows and 16 columns."""


@dataclass(frozen=True, slots=True)
class SmallModel:
    """One encoder at a size that a laptop runs."""

    writer: str
    """`module:function` of this folder; "" where a trained small model comes with the package."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Beside `model`: the published tap lies beyond a small network's last block."""


_DIT = {"blocks": (1,), "resolution": _WIDE}
_TOWER = {"blocks": (2,)}
_STREAMS = {"blocks": (1, 2), "resolution": _WIDE}
"""The last double-stream block and the first single-stream one."""

SMALL: Mapping[str, SmallModel] = {
    "wan2.1-t2v": SmallModel("", {"model": DESK}),
    "wan2.1-vace": SmallModel("wan:write_vace", _DIT),
    "wan2.1-i2v": SmallModel("wan:write_i2v", _DIT),
    "wan2.2-t2v": SmallModel("wan:write_wan22", _DIT),
    "wan2.2-i2v": SmallModel("wan:write_wan22_i2v", _DIT),
    "wan2.2-ti2v": SmallModel("wan:write_ti2v", _DIT),
    "wan-vae": SmallModel("wan:write_wan_vae", {"resolution": _WIDE}),
    "svd": SmallModel("pictures:write_svd", {"blocks": (3,), "resolution": _WIDE}),
    "sd2.1": SmallModel("pictures:write_sd", {"blocks": (3,), "resolution": _WIDE}),
    "sd-vae": SmallModel("pictures:write_sd_vae", {"resolution": _WIDE}),
    "flux": SmallModel("pictures:write_flux", {**_STREAMS, "text_rows": 8}),
    "cogvideox": SmallModel("videos:write_cogvideox", _DIT),
    "hunyuan-video": SmallModel("videos:write_hunyuan", _STREAMS),
    "ltx-video": SmallModel("videos:write_ltx", _DIT),
    "cosmos-predict2": SmallModel("videos:write_cosmos", _DIT),
    "siglip": SmallModel("", {"model": DESK}),
    "siglip2": SmallModel("encoders:write_siglip2", {**_TOWER, "resolution": _WIDE}),
    "dinov2": SmallModel("encoders:write_dinov2", {**_TOWER, "resolution": _PATCHES}),
    "dinov3": SmallModel("encoders:write_dinov3", {**_TOWER, "resolution": _WIDE}),
    "clip": SmallModel("encoders:write_clip", {**_TOWER, "resolution": _PATCHES}),
    "vjepa2": SmallModel("encoders:write_vjepa2", {**_TOWER, "resolution": _WIDE}),
    "qwen2.5-vl-vision": SmallModel("encoders:write_qwen", {**_TOWER, "resolution": _PATCHES}),
    "openvla-vision": SmallModel("ours:write_openvla", {"resolution": _PATCHES}),
    "vggt": SmallModel("ours:write_vggt", _TOWER),
}
"""By the encoder's name; controls need no weights."""


def small_settings(name: str, folder: Path) -> dict[str, Any]:
    """Return the settings of an encoder's small model, written below `folder` where it is not yet.

    Raises:
        KeyError: The encoder has none: it takes no weights, or a package brought it.
    """
    small = SMALL[name]
    if not small.writer:
        return dict(small.settings)
    place = folder / name
    if not place.exists():
        module, _, function = small.writer.partition(":")
        write = getattr(import_module(f"vega3d.pipeline.backbones.small.{module}"), function)
        with whole_folder(place) as half:
            write(half)
    return {"model": str(place), **small.settings}
