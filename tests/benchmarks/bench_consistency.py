"""Time of the score against views, fast and slow; a plain test on tiny sizes.

    python tests/benchmarks/bench_consistency.py            # 16 to 512 views, 20 minutes
    python tests/benchmarks/bench_consistency.py 32 128     # these, a minute
    pytest tests/benchmarks/bench_consistency.py            # tiny, checks that they agree

Scenes are arcs of views inside a room of 5 x 4 x 2.6 m: every token lies where its ray meets a
wall, and neighbours look 90 / views degrees apart. `fast` is the score and its random-pair mean by
the linear identity; `all` adds the same-position baseline, the treatments, and AUROC and recall on
128 view pairs. The loops visit every view pair: `released` as the released script scores one pair
(the score alone), `products` with one matrix product a pair (score and random-pair mean).
"""

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np

from vega3d.evaluate import consistency
from vega3d.evaluate.config import score_only_config

ARC = np.pi / 2
ROOM_M = np.array([5.0, 4.0, 2.6])


def arc_scene(num_views: int, grid: int, channels: int) -> tuple[np.ndarray, ...]:
    """Return float16 features, positions and mask of an arc of views looking across a room."""
    rng = np.random.default_rng(0)
    yaw = np.linspace(0, ARC, num_views, endpoint=False)[:, None, None]
    across = np.linspace(-0.6, 0.6, grid)[None, None, :]
    down = np.linspace(-0.5, 0.5, grid)[None, :, None]
    ray = np.stack(np.broadcast_arrays(np.cos(yaw + across), np.sin(yaw + across), -down), axis=-1)
    eye = ROOM_M / 2 - 0.5 * np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw], axis=-1)
    with np.errstate(divide="ignore"):
        reach = np.where(ray > 0, (ROOM_M - eye) / ray, -eye / ray).min(axis=-1, keepdims=True)
    xyz = (eye + reach * ray).astype(np.float32)
    features = rng.standard_normal((num_views, grid, grid, channels), dtype=np.float32)
    return features.astype(np.float16), xyz, np.ones(xyz.shape[:3], dtype=bool)


def median_s(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return median and spread (largest minus smallest) of the wall time after one warm-up."""
    run()
    times = [once_s(run) for _ in range(repeats)]
    return statistics.median(times), max(times) - min(times)


def once_s(run: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def load_twin() -> ModuleType:
    """Return the slow twin of the tests."""
    path = Path(__file__).parents[1] / "evaluate" / "slow_twin.py"
    spec = importlib.util.spec_from_file_location("slow_twin", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fast_and_loop_agree_on_a_tiny_arc() -> None:
    features, xyz, valid = arc_scene(16, 6, 16)
    fast = consistency(features, xyz, valid, 0.4, config=score_only_config())
    assert fast.num_pairs > 0
    twin = load_twin()
    for slow in (twin.loop_released, twin.loop_products):
        found = np.atleast_1d(slow(features, xyz, valid, 0.4))
        expected = [fast.consistency, fast.random][: len(found)]
        np.testing.assert_allclose(found, expected, atol=1e-6)  # float32 tokens against float64


def test_fast_is_many_times_faster_than_the_loop() -> None:
    arrays = arc_scene(32, 8, 64)
    fast, _ = median_s(partial(consistency, *arrays, config=score_only_config()), 5)
    slow = min(once_s(partial(load_twin().loop_released, *arrays, 0.1)) for _ in range(2))
    assert slow > 3 * fast  # 11 measured; the ratio grows with the views


def main() -> None:
    """Print one row a number of views."""
    twin, write = load_twin(), sys.stdout.write
    write("views     pairs  fast ms  spread  all s  released s  products s  fast is x faster\n")
    for num_views in [int(v) for v in sys.argv[1:]] or [16, 32, 64, 128, 256, 512]:
        arrays = arc_scene(num_views, 14, 1536)
        score = partial(consistency, *arrays, config=score_only_config())
        fast, spread = median_s(score, 10)
        row = f"{num_views:>5} {score().num_pairs:>9} {1e3 * fast:>8.1f} {1e3 * spread:>7.1f}"
        row += f" {once_s(partial(consistency, *arrays)):>6.2f}"
        slow = [once_s(partial(f, *arrays, 0.1)) for f in (twin.loop_released, twin.loop_products)]
        row += f" {slow[0]:>11.2f} {slow[1]:>11.2f}  {slow[0] / fast:.0f}, {slow[1] / fast:.0f}"
        write(row + "\n")


if __name__ == "__main__":
    main()
