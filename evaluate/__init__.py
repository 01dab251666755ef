"""Stage 2: how well features agree across views, and what that is worth (`vega3d-consistency`).

Open `scores.py` first: arrays in, scores out. `pairs.py` has the sums, `treatments.py` and
`matching.py` the controls; `report.py` tells the story of a report. Names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vega3d.evaluate.scores import SceneScores as SceneScores
    from vega3d.evaluate.scores import consistency as consistency

_HOMES = {
    "SceneScores": "vega3d.evaluate.scores",
    "consistency": "vega3d.evaluate.scores",
}
__all__ = ["SceneScores", "consistency"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
