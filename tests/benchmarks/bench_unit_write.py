"""A unit's write beside a plain write and fsync of the same bytes, in turns.

python tests/benchmarks/bench_unit_write.py [scenes]

From float32, as an encoder gives it, and from float16 that is ready.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.scenes.scene import SceneEntry
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.store.scene_arrays import SceneArrays

GRID = (14, 14)


def bench(
    folder: Path, scenes: int, views: int, channels: int, repeats: int, dtype: str = "float32"
) -> dict[str, float]:
    """Return medians of seconds of both, and their ratio by pairs."""
    rng = np.random.default_rng(0)
    names = [f"s{index}" for index in range(scenes)]
    arrays = [
        SceneArrays(
            scene_id=name,
            features={
                "b1": rng.standard_normal((views, *GRID, channels), dtype=np.float32).astype(dtype)
            },
            view_ids=tuple(map(str, range(views))),
            coverage=np.ones((views, *GRID), dtype=np.float32),
        )
        for name in names
    ]
    entries = [SceneEntry(scene_id=name, num_views=views, size_bytes=1) for name in names]
    plan = plan_units(entries, num_views=views, scenes_per_shard=scenes)
    identity = {"format": 2, "config": {"grid": list(GRID), "store_dtype": "float16"},
                "taps": ["b1"], "channels": channels}  # fmt: skip
    ours, plain = [], []
    for turn in range(repeats + 1):
        writer = create_or_resume(str(folder / f"s{turn}"), plan, identity, Numerics().stored())
        start = time.perf_counter()
        record = writer.write_unit(plan.units[0], arrays, {})
        ours.append(time.perf_counter() - start)
        data = np.ones(record.stored_bytes, dtype=np.uint8)
        start = time.perf_counter()
        with (folder / "plain").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        plain.append(time.perf_counter() - start)
        (folder / "plain").unlink()
        shutil.rmtree(folder / f"s{turn}")
    return {
        "unit_s": statistics.median(ours[1:]),
        "plain_s": statistics.median(plain[1:]),
        "ratio": statistics.median(a / b for a, b in zip(ours[1:], plain[1:], strict=True)),
        "mb": record.stored_bytes / 1e6,
    }


def test_the_benchmark_runs_on_tiny_sizes(tmp_path: Path) -> None:
    found = bench(tmp_path, scenes=2, views=2, channels=8, repeats=1)
    assert found["ratio"] > 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        count = int(sys.argv[1]) if len(sys.argv) > 1 else 4
        for dtype in ("float32", "float16"):
            found = bench(Path(scratch), count, 32, 1536, 9, dtype)
            print(dtype, json.dumps({name: round(value, 3) for name, value in found.items()}))
