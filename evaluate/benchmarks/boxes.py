"""Axis-aligned boxes and their overlap, in the arithmetic that each official script uses.

A box is centre and size, metres: [cx, cy, cz, dx, dy, dz]. At a threshold the last bits decide, so
each protocol repeats its script's order of operations.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from vega3d.pipeline.errors import UsageError

Overlap = Literal["released", "m3dref", "plain"]

Box = Float64[np.ndarray, " 6"]

_EPSILON = {"released": 1e-8, "m3dref": float(np.finfo(np.float32).eps), "plain": 0.0}


def check_box(value: Any, where: str) -> Box:  # noqa: ANN401 - any JSON value
    """Return a box of six finite numbers with sizes that are not negative.

    Raises:
        UsageError: It is something else; the message says where and what.
    """
    try:
        box = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        box = np.empty(0)
    if box.shape != (6,):
        raise UsageError(f"{where}: a box must be 6 numbers (centre, size), got {value!r:.80}")
    if not np.isfinite(box).all() or (box[3:] < 0).any():
        raise UsageError(f"{where}: a box must be finite with sizes >= 0 metres, got {value!r:.80}")
    return box


def iou(a: Box, b: Box, overlap: Overlap = "released") -> float:
    """Return intersection over union of two boxes; 0 where both have no volume.

    Args:
        a: One box, metres.
        b: The other.
        overlap: `released` adds 1e-8 to the union in double precision, `m3dref` float32's epsilon
            in single precision, `plain` nothing.

    Source: H-EmbodVis/VEGA-3D @ 9c96924, llava/eval/box_utils.py; 3dlg-hcvc/M3DRef-CLIP,
    m3drefclip/util/utils.py.
    """
    dtype = np.float32 if overlap == "m3dref" else np.float64
    (low_a, high_a), (low_b, high_b) = _bounds(a, dtype), _bounds(b, dtype)
    sides = np.maximum(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), dtype(0))
    common = _product(sides)
    union = _product(high_a - low_a) + _product(high_b - low_b) - common
    union = union + dtype(_EPSILON[overlap])
    return float(common / union) if union > 0 else 0.0


def iou_matrix(
    left: Sequence[Box], right: Sequence[Box], overlap: Overlap = "released"
) -> Float64[np.ndarray, "L R"]:
    """Return the overlap of every box with every other."""
    return np.array([[iou(a, b, overlap) for b in right] for a in left]).reshape(
        len(left), len(right)
    )


def _bounds(box: Box, dtype: type[np.floating[Any]]) -> tuple[np.ndarray, np.ndarray]:
    half = box[3:] / 2
    return (-half + box[:3]).astype(dtype), (half + box[:3]).astype(dtype)


def _product(sides: np.ndarray) -> Any:  # noqa: ANN401 - a numpy scalar of the protocol's type
    return sides[0] * sides[1] * sides[2]
