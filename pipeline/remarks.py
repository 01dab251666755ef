"""What a person must know of a store's settings before using its features, in words."""

from collections.abc import Mapping
from typing import Any


def remarks_on(config: Mapping[str, Any]) -> list[str]:
    """Return what stands out in the settings that a store keeps."""
    if config.get("context") != "clip":
        return []
    return [
        "in clip context the four views of one latent share one feature map, so their tokens at "
        "one image position are equal: as many different maps as latents, whatever --views says"
    ]
