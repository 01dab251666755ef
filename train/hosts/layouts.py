"""Where each view's tokens are in what a host calls its image or video features.

A host has `get_image_features` and maybe `get_video_features`, whose `pooler_output` holds
projected tokens in the language model's width. A layout names, in the order in which the host sees
them, the tokens of each view as a grid over the whole image; what is no cell of it (newlines, the
crops of a large image) is left alone.

Source: transformers 5, LlavaOnevisionModel, Qwen2_5_VLModel, Qwen3VLModel.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vega3d.pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class ViewTokens:
    """The tokens of one view: `features[index][start : start + rows * cols]`, row by row."""

    index: int
    start: int
    rows: int
    cols: int


Layout = Callable[[Any, str, Sequence[Tensor], dict[str, Any]], list[ViewTokens]]
"""Inner model of the host, `image` or `video`, its features and its arguments in; views out."""


def layout_of(model: Any) -> Layout:  # noqa: ANN401 - any Hugging Face model
    """Return the layout of a host by its model type.

    Raises:
        UsageError: No layout is known.
    """
    kind = str(model.config.model_type)
    for start, layout in _LAYOUTS.items():
        if kind.startswith(start):
            return layout
    raise UsageError(
        f"no layout is known for a host of type {kind!r}; known are {', '.join(_LAYOUTS)}. Give "
        "attach_prior a `layout` that names each view's tokens"
    )


def inner_model(model: Any) -> Any:  # noqa: ANN401 - any Hugging Face model
    """Return the module that hands visual tokens over: what holds `get_image_features`."""
    inner = getattr(model, "model", model)
    if not hasattr(inner, "get_image_features"):
        raise UsageError(
            f"{type(model).__name__} has no get_image_features: it hands no visual tokens over. "
            "Fuse tokens with `fuse` and pass inputs_embeds"
        )
    return inner


def _llava(
    inner: Any,  # noqa: ANN401 - a Hugging Face model
    modality: str,
    features: Sequence[Tensor],
    given: dict[str, Any],
) -> list[ViewTokens]:
    """An image begins with the whole image's grid; a video has every frame's, halved."""
    vision = inner.config.vision_config
    side = int(vision.image_size) // int(vision.patch_size)
    if modality == "image":
        return [ViewTokens(index, 0, side, side) for index in range(len(features))]
    half = math.ceil(side / 2)
    return [
        ViewTokens(index, frame * half * half, half, half)
        for index, video in enumerate(features)
        for frame in range(len(video) // (half * half))
    ]


def _qwen(
    inner: Any,  # noqa: ANN401 - a Hugging Face model
    modality: str,
    features: Sequence[Tensor],
    given: dict[str, Any],
) -> list[ViewTokens]:
    """Each image has a patch grid of its own, of which the merger makes one token of 2 x 2."""
    grids = given[f"{modality}_grid_thw"].tolist()
    merge = int(inner.visual.spatial_merge_size)
    found = []
    for index, (times, height, width) in enumerate(grids):
        rows, cols = height // merge, width // merge
        found += [ViewTokens(index, time * rows * cols, rows, cols) for time in range(times)]
    return found


_LAYOUTS: dict[str, Layout] = {
    "llava_onevision": _llava,
    "qwen2_5_vl": _qwen,
    "qwen2_vl": _qwen,
    "qwen3_vl": _qwen,
}
