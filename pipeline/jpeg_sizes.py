"""At what part of its sides a JPEG is decoded for an encoder whose input is smaller."""

from functools import cache

from vega3d.pipeline.backbones.checkpoints import planned_facts
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.settings import ModelFacts
from vega3d.pipeline.config import ExtractConfig

_DIVISORS = (8, 4, 2)


def jpeg_divisor(config: ExtractConfig, height: int, width: int) -> int:
    """Return by what an image's sides can be divided so that the encoder's input is no larger.

    The result covers the same canvas at the same place, and both sides are divided without a rest:
    no camera moves.

    Args:
        config: Says whether, and of which encoder.
        height: Rows of the image, px.
        width: Columns of the image, px.

    Returns:
        8, 4, 2 or 1.
    """
    if config.jpeg == "whole":
        return 1
    backbone, facts = config.backbone, _facts(config.backbone)
    whole = backbone.placement(facts, height, width)
    top, left, bottom, right = whole.target
    for divisor in _DIVISORS:
        if height % divisor or width % divisor:
            continue
        part = backbone.placement(facts, height // divisor, width // divisor)
        seen = part.source[2] - part.source[0], part.source[3] - part.source[1]
        is_enough = bottom - top <= seen[0] and right - left <= seen[1]
        if is_enough and (part.canvas, part.target) == (whole.canvas, whole.target):
            return divisor
    return 1


@cache
def _facts(backbone: BackboneConfig) -> ModelFacts:
    return planned_facts(backbone)
