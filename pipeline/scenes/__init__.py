"""What a capture is: scenes and views, one file a source, sampling, packing, procedural rooms.

Knows no encoder and no store. Open `scene.py` first (what every reader gives), then `reading.py`
(which reader a location is for); `scannet_export.py` is the reader to learn from. Names load on
first use.
"""

from typing import TYPE_CHECKING

from vega3d.pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from vega3d.pipeline.scenes.reading import read_scenes as read_scenes
    from vega3d.pipeline.scenes.scene import Scene as Scene
    from vega3d.pipeline.scenes.scene import SceneEntry as SceneEntry
    from vega3d.pipeline.scenes.scene import SceneSource as SceneSource
    from vega3d.pipeline.scenes.scene import View as View

__all__ = ["Scene", "SceneEntry", "SceneSource", "View", "read_scenes"]
__getattr__ = lazy_names(
    __name__,
    {
        "Scene": "scene",
        "SceneEntry": "scene",
        "SceneSource": "scene",
        "View": "scene",
        "read_scenes": "reading",
    },
)
