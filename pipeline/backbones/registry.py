"""Names of encoders to their families, without importing one that nobody asked for.

Ours stand in a table. An installed package adds its own with an entry point of the group
`vega3d.backbones` (see `plugins.py`): the name that `--backbone` takes, `module:ConfigClass`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.settings import DESK
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.plugins import BACKBONES, installed
from vega3d.pipeline.texts import meant

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

DEFAULT = "wan2.1-t2v"

_OURS = {
    "wan2.1-t2v": "wan:WanConfig",
    "wan2.1-vace": "wan_vace:WanVaceConfig",
    "wan2.1-i2v": "wan_i2v:WanI2vConfig",
    "wan2.2-t2v": "wan22:Wan22Config",
    "wan2.2-i2v": "wan22:Wan22ImageConfig",
    "wan2.2-ti2v": "wan22:Wan22SmallConfig",
    "wan-vae": "wan_vae:WanVaeConfig",
    "svd": "svd:SvdConfig",
    "sd2.1": "sd:SdConfig",
    "sd-vae": "sd:SdVaeConfig",
    "flux": "flux:FluxConfig",
    "cogvideox": "cogvideox:CogVideoXConfig",
    "hunyuan-video": "hunyuan:HunyuanConfig",
    "ltx-video": "ltx:LtxConfig",
    "cosmos-predict2": "cosmos:CosmosConfig",
    "siglip": "siglip:SiglipConfig",
    "siglip2": "siglip:Siglip2Config",
    "dinov2": "dinov2:Dinov2Config",
    "dinov3": "dinov3:Dinov3Config",
    "clip": "clip:ClipConfig",
    "vjepa2": "vjepa2:Vjepa2Config",
    "qwen2.5-vl-vision": "qwen_vision:QwenVisionConfig",
    "openvla-vision": "openvla_vision:OpenvlaVisionConfig",
    "vggt": "vggt:VggtConfig",
    "rgb": "controls:RgbConfig",
    "position": "controls:PositionConfig",
    "random": "controls:RandomConfig",
}
"""Name -> module of this folder, and its config class."""

_PRESETS = {
    "reference": "wan_presets:reference",
    "desk": "wan_presets:desk",
    "desk-siglip": "siglip:desk",
}
"""Name -> a function that returns a config of other than the defaults."""

_PACKAGED = {("wan2.1-t2v", DESK): "desk", ("siglip", DESK): "desk-siglip"}
"""Encoder and a model that comes with the package -> the preset with that model's defaults."""


def backbone_names() -> tuple[str, ...]:
    """List every encoder there is, ours first; imports none of them."""
    return (*_OURS, *sorted(_installed()))


def preset_names() -> tuple[str, ...]:
    """List the named configs beside each encoder's defaults."""
    return tuple(_PRESETS)


def family(name: str) -> type[BackboneConfig]:
    """Return the config class of the encoder of that name.

    Raises:
        UsageError: There is no such encoder, or its package gives no config class.
    """
    if name in _OURS:
        found = _load(_OURS[name])
    elif name in _installed():
        found = _installed()[name].load()
    else:
        known = backbone_names()
        raise UsageError(f"backbone must be one of {', '.join(known)}, got {meant(name, known)}")
    if not (isinstance(found, type) and issubclass(found, BackboneConfig)):
        raise UsageError(f"backbone {name!r}: {found!r} does not derive from BackboneConfig")
    return found


def preset(name: str) -> BackboneConfig:
    """Return the named config: a preset's, or the defaults of the encoder of that name."""
    make: Callable[[], BackboneConfig] = _load(_PRESETS[name]) if name in _PRESETS else family(name)
    return make()


def configured(name: str, settings: Mapping[str, Any]) -> BackboneConfig:
    """Return the named config with some settings changed; a packaged model brings its defaults."""
    base: Any = unchanged(name, settings)
    changed: BackboneConfig = replace(base, **settings)
    return changed


def unchanged(name: str, settings: Mapping[str, Any]) -> BackboneConfig:
    """Return the named config, or the one of the packaged model that is among the settings."""
    base = preset(name)
    packaged = _PACKAGED.get((base.name, settings.get("model", "")))
    return preset(packaged) if packaged else base


def _load(place: str) -> Callable[[], BackboneConfig]:
    module, _, attribute = place.partition(":")
    found: Callable[[], BackboneConfig] = getattr(
        import_module(f"vega3d.pipeline.backbones.{module}"), attribute
    )
    return found


def _installed() -> "dict[str, EntryPoint]":
    return installed(BACKBONES, (*_OURS, *_PRESETS))
