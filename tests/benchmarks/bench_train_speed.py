"""The three speeds that the trainer promises, in one go.

1. A step fed from the store against the same step fed from RAM (at most 5 % more).
2. The loader against raw reading: plain sequential reading of the same files, whole, into buffers
   of a batch's size. Files are in the page cache: what is measured is software, not a disk.
3. An epoch from the cache against one that computes the prior in every step.

As a plain test, on tiny sizes: `pytest tests/benchmarks/bench_train_speed.py`. For numbers:
`OMP_NUM_THREADS=1 python tests/benchmarks/bench_train_speed.py [full]`; `full` encodes with a
backbone of the published size (see `bench_train_steps.py`), else it is a tiny one.
"""

import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import bench_train_loading as loading
import bench_train_steps as steps


def run(folder: Path, full: bool, step: steps.Size, load: loading.Size) -> dict[str, object]:
    trainer = steps.trainer_of(steps.write_stores(folder / "steps", step), folder / "feeding", step)
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "1. step from store against RAM": steps.bench_feeding(trainer, step),
        "2. loader against raw sequential": loading.bench_loader(
            loading.write_stores(folder / "loading", load), load
        ),
        "3. cached epoch against online epoch": steps.bench_online(folder, full, step),
    }


def test_all_three_speeds_are_there(tmp_path: Path) -> None:
    found = run(tmp_path, False, steps.TINY, loading.TINY)
    assert found["1. step from store against RAM"]["tokens/s from store"] > 0
    assert "2 workers" in found["2. loader against raw sequential"]
    assert found["3. cached epoch against online epoch"]["times faster"] >= 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        full = "full" in sys.argv[1:]
        size = steps.FULL if full else steps.Size()
        print(json.dumps(run(Path(place), full, size, loading.Size()), indent=1))
