"""Whether a model is kept busy: captures of ScanNet's sizes through a stage that waits.

    python tests/benchmarks/bench_feeding.py [scenes] [views a scene] [ms a view] [whole | scaled]

See `pipeline/feeding.py` for the stage. Without a third argument it is as slow as these cores can
feed, 1.05 times what a view takes them; the cores that 10 ms a view would ask for are told. The
last one is `--jpeg`.
"""

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import cast

from vega3d.pipeline.config import JpegSize
from vega3d.pipeline.feeding import fed_config, feed, write_captures

GPU_S = 0.010


def bench(
    folder: Path, scenes: int, views: int, stage_s: float, jpeg: JpegSize
) -> dict[str, object]:
    """Measure what a view takes, then how busy a stage is kept; 0 s: one that can be fed."""
    few = write_captures(folder / "few", views, scenes=max(2, scenes // 10))
    feed(few, folder / "warm", fed_config(views, 1, jpeg))  # compiles
    free = feed(few, folder / "free", fed_config(views, 1, jpeg))
    stage_s = stage_s or free.wall_s / free.views * 1.05
    captures = write_captures(folder / "all", views, scenes=scenes)
    found = feed(captures, folder / "out", fed_config(views, 4, jpeg), stage_s)
    return {
        "jpeg": jpeg,
        "cores_here": len(os.sched_getaffinity(0)),
        "without_a_stage": asdict(free),
        "stage_s_per_view": stage_s,
        "cores_for_10_ms_a_view": found.cpu_s_per_view / GPU_S,
        "with_it": asdict(found),
    }


def test_a_stage_is_kept_busy_across_scenes_and_units(tmp_path: Path) -> None:
    """Units of one scene each: reading goes on while the stage is held, or it would wait."""
    captures = write_captures(tmp_path / "captures", 2, (96, 128), 6)
    feed(captures, tmp_path / "warm", config := fed_config(2))
    alone = feed(captures, tmp_path / "alone", config)
    stage_s = alone.wall_s / alone.views  # as long as all the rest: one after the other is half
    held_s = 2 * stage_s
    found = max(feed(captures, tmp_path / f"out{i}", config, held_s).efficiency for i in range(2))
    assert found > 0.72


if __name__ == "__main__":
    words = sys.argv[1:]
    *numbers, size = (*words, *("200", "8", "0", "whole")[len(words) :])
    scenes, views, ms = (float(number) for number in numbers)
    with tempfile.TemporaryDirectory() as name:
        measured = bench(Path(name), int(scenes), int(views), ms / 1000, cast("JpegSize", size))
    print(json.dumps(measured, indent=1))
