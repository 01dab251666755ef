"""What a capture is: scenes and views, one file a source, sampling, packing, procedural rooms.

Knows no encoder and no store. Open `scene.py` first (what every reader gives), then `reading.py`
(which reader a location is for); `scannet_export.py` is the reader to learn from. Names load on
first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vega3d.pipeline.scenes.reading import read_scenes as read_scenes
    from vega3d.pipeline.scenes.scene import Scene as Scene
    from vega3d.pipeline.scenes.scene import SceneEntry as SceneEntry
    from vega3d.pipeline.scenes.scene import SceneSource as SceneSource
    from vega3d.pipeline.scenes.scene import View as View

_HOMES = {
    "Scene": "vega3d.pipeline.scenes.scene",
    "SceneEntry": "vega3d.pipeline.scenes.scene",
    "SceneSource": "vega3d.pipeline.scenes.scene",
    "View": "vega3d.pipeline.scenes.scene",
    "read_scenes": "vega3d.pipeline.scenes.reading",
}
__all__ = ["Scene", "SceneEntry", "SceneSource", "View", "read_scenes"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
