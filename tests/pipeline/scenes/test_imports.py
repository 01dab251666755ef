"""Finding and reading captures loads none of the heavy libraries."""

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from vega3d.pipeline.scenes.reading import read_scenes
read_scenes(sys.argv[1]).entries()
import vega3d.pipeline.scenes.rooms.rooms
listing = {"jaxtyping"} & sys.modules.keys()
import vega3d.pipeline.scenes.packing, vega3d.pipeline.scenes.videos
heavy = listing | {"torch", "ray", "av", "webdataset", "obstore", "zarr", "dask"}
print(*sorted(heavy & sys.modules.keys()))
"""


def test_heavy_libraries_load_on_first_use(tmp_path: Path) -> None:
    (tmp_path / "color").mkdir()
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
