"""A scene of many large images, extracted in this process: how much memory that takes at most.

    python tests/faults/large_scene.py VIEWS MEGAPIXELS [HELD_MIB PART_MIB]

One line of JSON: MiB of decoded pixels, of peak memory beyond what a small scene takes, and the
store's digest.
"""

import io
import json
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vega3d.pipeline import features, read_scenes
from vega3d.pipeline.backbones.controls import RgbConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.extract import extract
from vega3d.pipeline.runners import run_inline

DEPTH = (192, 256)


def write(folder: Path, views: int, megapixels: float) -> int:
    """Write a capture of images that all differ; returns the bytes that they decode to."""
    rows = 8 * round((megapixels * 1e6 * 3 / 4) ** 0.5 / 8)
    size = (rows, rows * 4 // 3)
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    shade = Image.linear_gradient("L").resize(size[::-1])
    for view in range(views):
        image = Image.merge("RGB", [shade, shade, shade.point(lambda v, by=view: (v + by) % 256)])
        data = io.BytesIO()
        image.save(data, "JPEG", quality=50)
        (folder / f"color/{view}.jpg").write_bytes(data.getvalue())
        Image.fromarray(np.full(DEPTH, 2000 + view, np.uint16)).save(folder / f"depth/{view}.png")
        np.savetxt(folder / f"pose/{view}.txt", np.eye(4))
    for name, (height, width) in (("color", size), ("depth", DEPTH)):
        K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]])
        np.savetxt(folder / f"intrinsic/intrinsic_{name}.txt", K)
    return views * (size[0] * size[1] * 3 + DEPTH[0] * DEPTH[1] * 4)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(folder: Path, views: int) -> str:
    config = ExtractConfig(backbone=RgbConfig(), num_views=views, scenes_per_shard=1)
    numerics = Numerics(threads=1, batch_size=1)
    out = str(folder.with_name(f"{folder.name}.zarr"))
    summary = extract(read_scenes(str(folder)), out, config, numerics=numerics, run=run_inline)
    assert summary.committed == summary.scenes, summary.failures
    return summary.digest


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    views, megapixels = int(sys.argv[1]), float(sys.argv[2])
    if len(sys.argv) > 3:
        features.SCENE_HELD_BYTES, features.PART_BYTES = (int(mib) << 20 for mib in sys.argv[3:5])
    with tempfile.TemporaryDirectory() as place:
        write(Path(place, "small/a"), 2, 0.1)
        run(Path(place, "small"), 2)
        decoded = write(Path(place, "large/a"), views, megapixels)
        before, start = peak_bytes(), time.monotonic()
        digest = run(Path(place, "large"), views)
        found = {"decoded_mib": decoded >> 20, "peak_mib": (peak_bytes() - before) >> 20}
        seconds = round(time.monotonic() - start, 1)
        print(json.dumps({**found, "seconds": seconds, "digest": digest}))
