"""Named settings of Wan beside its defaults; standard library only, as `wan.py` is."""

from vega3d.pipeline.backbones.wan import WanConfig


def reference() -> WanConfig:
    """Return the released pipeline (H-EmbodVis/VEGA-3D @ 9c96924), mistakes included."""
    return WanConfig(recipe="reference", resolution=(720, 1280), fit="crop", dtype="bfloat16")


def desk() -> WanConfig:
    """Return the small generator that comes with the package, with defaults of its own."""
    return WanConfig(model="desk", blocks=(4,), timesteps=(300,), resolution=(128, 160))
