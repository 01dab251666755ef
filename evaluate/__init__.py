"""Stage 2: how well features agree across views, and what that is worth (`vega3d-consistency`).

Open `scores.py` first: arrays in, scores out. `pairs.py` has the sums, `treatments.py` and
`matching.py` the controls; `report.py` tells the story of a report. Reads stores; knows no encoder,
no trainer and no Ray. Names load on first use.
"""

from typing import TYPE_CHECKING

from vega3d.pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from vega3d.evaluate.scores import SceneScores as SceneScores
    from vega3d.evaluate.scores import consistency as consistency

__all__ = ["SceneScores", "consistency"]
__getattr__ = lazy_names(
    __name__,
    {
        "SceneScores": "scores",
        "consistency": "scores",
    },
)
