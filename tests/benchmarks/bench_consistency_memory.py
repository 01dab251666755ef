"""Peak memory of a report against the number of scenes; a plain test on tiny sizes.

    python tests/benchmarks/bench_consistency_memory.py            # 100 and 1000 scenes
    pytest tests/benchmarks/bench_consistency_memory.py            # tiny

Scenes are 8 views of 14 x 14 tokens of 64 channels (float16 in the store), imported into one store
of 4 scenes a shard and reported on two threads. Each number of scenes is measured in a process of
its own, since the peak of a process never falls; the store is written by another one.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from numbered import numbered

from vega3d.evaluate.config import ReportConfig, RunConfig
from vega3d.evaluate.report import report
from vega3d.pipeline.imports import SceneArrays, import_arrays

VIEWS, GRID, CHANNELS = 8, 14, 64


def scenes(count: int, grid: int, channels: int) -> Iterator[SceneArrays]:
    """Return noise in a room of 1 m, one scene after the other."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        shape = (VIEWS, grid, grid)
        yield numbered(
            scene_id=f"scene{seed:05d}",
            features={"b0": rng.standard_normal((*shape, channels)).astype(np.float16)},
            world_xyz=rng.uniform(0, 1, (*shape, 3)).astype(np.float32),
            world_from_camera=np.tile(np.eye(4), (VIEWS, 1, 1)),
            preview=np.zeros((VIEWS, 8 * grid, 8 * grid, 3), dtype=np.uint8),
            image_size=np.tile([8 * grid, 8 * grid], (VIEWS, 1)),
        )


def write(path: str, count: int, grid: int = GRID, channels: int = CHANNELS) -> None:
    """Write a store of so many scenes."""
    import_arrays(path, list(scenes(count, grid, channels)), model="noise", scenes_per_shard=4)


def measure(path: str, out: str) -> dict[str, float]:
    """Report a store; return scenes, seconds and this process's peak memory, MiB."""
    start = time.perf_counter()
    config = ReportConfig(bootstrap_samples=200)
    done = report([path], out, config, RunConfig(workers=2, scenes_shown=1))
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "scenes": len(done.summary.common),
        "wall_s": round(time.perf_counter() - start, 1),
        "peak_mib": round(peak_kib / 1024, 1),
    }


def apart(call: str) -> str:
    """Make a call of this module in a process of its own; return the last line it prints."""
    code = f"import json, bench_consistency_memory as bench; print(json.dumps(bench.{call}))"
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.splitlines()[-1]


def test_a_tiny_store_is_measured(tmp_path: Path) -> None:
    write(str(tmp_path / "store"), 3, 4, 8)
    found = measure(str(tmp_path / "store"), str(tmp_path / "out"))
    assert found["scenes"] == 3
    assert found["peak_mib"] > 10


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scenes(tmp_path: Path) -> None:
    peaks = []
    for count in (40, 240):
        path = str(tmp_path / str(count))
        apart(f"write({path!r}, {count}, 4, 8)")
        found = json.loads(apart(f"measure({path!r}, {path + '-report'!r})"))
        assert found["scenes"] == count
        peaks.append(found["peak_mib"])
    assert peaks[1] - peaks[0] < 6  # 200 records with their poses and tables would be 5


def main() -> None:
    """Print one line a number of scenes."""
    for count in [int(n) for n in sys.argv[1:]] or [100, 1000]:
        with tempfile.TemporaryDirectory() as folder:
            path, out = f"{folder}/store", f"{folder}/out"
            apart(f"write({path!r}, {count})")
            sys.stdout.write(json.dumps(json.loads(apart(f"measure({path!r}, {out!r})"))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
