"""What a training step costs: fed from the store, from RAM, and with features computed online.

As a plain test, on tiny sizes: `pytest tests/benchmarks/bench_train_steps.py`. For numbers:
`OMP_NUM_THREADS=1 python tests/benchmarks/bench_train_steps.py [full]`. The backbone is a tiny
random checkpoint, far smaller than the real one; with `full` it is
Wan2.1-T2V-1.3B at its published size with random weights (8 GB of disk, 7 GB of RAM, and on a CPU
a minute or two for each of the epoch's views).
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from numbered import numbered

from vega3d.pipeline import load_backbone
from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.tiny import write_random_wan, write_tiny_wan
from vega3d.pipeline.imports import import_arrays
from vega3d.train.batch import Batch
from vega3d.train.config import RunConfig, TrainConfig
from vega3d.train.pairing import pair_stores
from vega3d.train.processes import Processes
from vega3d.train.rundir import plan_run
from vega3d.train.trainer import Trainer


@dataclass(frozen=True)
class Size:
    scenes: int = 4
    views: int = 32
    grid: int = 14
    gen_dim: int = 1536
    sem_dim: int = 1152
    hidden_dim: int = 256
    batch_size: int = 2
    rounds: int = 60
    online_scenes: int = 3
    """One of them is scored; the others are an epoch."""
    online_views: int = 8
    image: tuple[int, int] = (480, 640)
    blocks: tuple[int, ...] = (20,)


FULL = Size(online_views=4)
"""For a backbone that takes a minute a view on a CPU."""

TINY = Size(4, 8, 3, 16, 8, 8, 2, 3, 3, 4, (64, 96), (1,))


def write_stores(folder: Path, size: Size) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    shape = (size.views, size.grid, size.grid)
    poses = np.tile(np.eye(4), (size.views, 1, 1))
    urls = []
    for name, dim in (("prior", size.gen_dim), ("semantic", size.sem_dim)):
        scenes = [
            numbered(
                scene_id=f"scene{index}",
                features={"b0": rng.standard_normal((*shape, dim), dtype=np.float32)},
                world_xyz=rng.uniform(1, 3, (*shape, 3)).astype(np.float32),
                world_from_camera=poses,
            )
            for index in range(size.scenes)
        ]
        urls.append(str(folder / name))
        import_arrays(urls[-1], scenes, model=name, scenes_per_shard=1)
    return urls[0], urls[1]


def trainer_of(urls: tuple[str, str], out: Path, size: Size) -> Trainer:
    config = TrainConfig(
        hidden_dim=size.hidden_dim, batch_size=size.batch_size, steps=10_000, heads=4
    )
    plan = plan_run(pair_stores(*urls), config)
    return Trainer(plan, out, RunConfig(workers=1), Processes(0, 1, torch.device("cpu")))


def copied(batch: Batch) -> Batch:
    return replace(batch, gen=batch.gen.clone(), sem=batch.sem.clone())


def bench_feeding(trainer: Trainer, size: Size) -> dict[str, object]:
    """Steps fed from the store and steps fed from memory, in turn."""
    stored = trainer.make_loader(0).batches(trainer._requests())
    memory = [copied(next(stored)) for _ in range(4)]

    def from_memory() -> Iterator[Batch]:
        while True:
            yield from memory

    feeds = {"store": stored, "ram": from_memory()}
    for feed in feeds.values():
        trainer._step(feed)
    times: dict[str, list[float]] = {name: [] for name in feeds}
    for index in range(size.rounds):
        for name in list(feeds) if index % 2 else list(feeds)[::-1]:
            start_s = time.perf_counter()
            trainer._step(feeds[name])
            times[name].append(time.perf_counter() - start_s)
    stored.close()
    medians = {name: statistics.median(found) for name, found in times.items()}
    shares = [a / b - 1 for a, b in zip(times["store"], times["ram"], strict=True)]
    low, middle, high = statistics.quantiles(shares, n=4)
    tokens = size.batch_size * trainer.config.views_per_sample * size.grid**2
    return {
        "step from store, s": round(medians["store"], 4),
        "step from RAM, s": round(medians["ram"], 4),
        "extra": round(medians["store"] / medians["ram"] - 1, 4),
        "extra, by pairs (q1, median, q3)": [round(x, 4) for x in (low, middle, high)],
        "tokens/s from store": round(tokens / medians["store"]),
    }


def load_random_backbone(folder: Path, full: bool, size: Size) -> Backbone:
    """Return a Wan of random weights, loaded by the default path."""
    (write_random_wan if full else write_tiny_wan)(folder / "wan")
    return load_backbone(
        "wan2.1-t2v",
        model=str(folder / "wan"),
        resolution=size.image,
        blocks=size.blocks,
        prompt_embeds=np.zeros((1, 4096), np.float32) if full else None,
    )


def encode_sample(backbone: Backbone, rgb: np.ndarray, scene_id: str, grid: int) -> torch.Tensor:
    """Return [V, N, C] float16: the views of one sample through the backbone, on the grid."""
    ids = [str(view) for view in range(len(rgb))]
    (features,) = backbone.encode(rgb, scene_id=scene_id, view_ids=ids).values()
    tokens = torch.as_tensor(features).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.adaptive_avg_pool2d(tokens.float(), grid)
    return pooled.flatten(2).transpose(1, 2).half()


def online_feed(
    cached: Iterator[Batch], backbone: Backbone, size: Size, seconds: list[float]
) -> Iterator[Batch]:
    """Yield the same batches with the prior computed here and now; note the time it took."""
    rng = np.random.default_rng(3)
    for batch in cached:
        num_views = batch.views.shape[1]
        start_s = time.perf_counter()
        samples = []
        for scene_id in batch.scene_ids:
            rgb = rng.integers(0, 256, (num_views, *size.image, 3), dtype=np.uint8)
            samples.append(encode_sample(backbone, rgb, scene_id, size.grid))
        seconds.append((time.perf_counter() - start_s) / batch.views.numel())
        yield replace(batch, gen=torch.stack(samples))


def epoch_s(trainer: Trainer, feed: Iterator[Batch], steps: int) -> float:
    """Return the wall time of one epoch of steps."""
    start_s = time.perf_counter()
    for _ in range(steps):
        trainer._step(feed)
    return time.perf_counter() - start_s


def bench_online(folder: Path, full: bool, size: Size) -> dict[str, object]:
    """An epoch with the prior computed in every step, run to its end, against a cached one.

    Both take all cores. The semantic stream stays cached on both sides, which favours the online
    one; the images are noise and are not decoded, which does so too.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    backbone = load_random_backbone(folder, full, size)
    warm_up = np.zeros((1, *size.image, 3), dtype=np.uint8)
    gen_dim = encode_sample(backbone, warm_up, "warm-up", size.grid).shape[-1]
    same = replace(size, scenes=size.online_scenes, views=size.online_views, gen_dim=gen_dim)
    trainer = trainer_of(write_stores(folder / "same_width", same), folder / "run", same)
    steps = trainer.plan.order.samples_per_epoch // size.batch_size
    views = steps * size.batch_size * trainer.config.views_per_sample
    feed = trainer.make_loader(0).batches(trainer._requests())
    trainer._step(feed)
    cached = [epoch_s(trainer, feed, steps) for _ in range(max(3, size.rounds // 3))]
    feed.close()
    feed = trainer.make_loader(0).batches(trainer._requests())
    encoding: list[float] = []
    online_s = epoch_s(trainer, online_feed(feed, backbone, same, encoding), steps)
    feed.close()
    cached_s = statistics.median(cached)
    return {
        "views": views,
        "threads": torch.get_num_threads(),
        "channels": gen_dim,
        "encode a view, s": round(statistics.median(encoding), 4),
        "online epoch, s": round(online_s, 2),
        "cached epoch, s (median, of epochs)": [round(cached_s, 4), len(cached)],
        "times faster": round(online_s / cached_s, 1),
    }


def run(folder: Path, full: bool, size: Size) -> dict[str, object]:
    trainer = trainer_of(write_stores(folder, size), folder / "feeding", size)
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "feeding": bench_feeding(trainer, size),
        "online": bench_online(folder, full, size),
    }


def test_feeding_and_online_run(tmp_path: Path) -> None:
    found = run(tmp_path, False, TINY)
    assert found["feeding"]["tokens/s from store"] > 0
    assert found["online"]["times faster"] >= 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        full = "full" in sys.argv[1:]
        print(json.dumps(run(Path(place), full, FULL if full else Size()), indent=1))
