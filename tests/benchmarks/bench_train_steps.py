"""What a training step costs: fed from the store, from RAM, and with features computed online.

As a plain test, on tiny sizes: `pytest tests/benchmarks/bench_train_steps.py`. For numbers:
`OMP_NUM_THREADS=1 python tests/benchmarks/bench_train_steps.py [full]`. The backbone is the tiny
random checkpoint of the demo, far smaller than the real one; with `full` it is
Wan2.1-T2V-1.3B at its published size with random weights (6.2 GB of disk, 7 GB of RAM, minutes).
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vega3d.pipeline.imports import SceneArrays, import_arrays
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
    online_views: int = 4
    image: tuple[int, int] = (480, 640)
    blocks: tuple[int, ...] = (20,)


TINY = Size(4, 8, 3, 16, 8, 8, 2, 3, 1, (64, 96), (1,))


def write_stores(folder: Path, size: Size) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    shape = (size.views, size.grid, size.grid)
    poses = np.tile(np.eye(4), (size.views, 1, 1))
    urls = []
    for name, dim in (("prior", size.gen_dim), ("semantic", size.sem_dim)):
        scenes = [
            SceneArrays(
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


def encode_seconds(folder: Path, full: bool, size: Size) -> tuple[list[float], int]:
    """Return seconds a view of a few encodings, the first (warm-up) left out, and the channels."""
    from vega3d.pipeline import load_backbone
    from vega3d.pipeline.tiny import write_random_wan, write_tiny_wan

    (write_random_wan if full else write_tiny_wan)(folder / "wan")
    backbone = load_backbone(
        "wan2.1-t2v",
        model=str(folder / "wan"),
        resolution=size.image,
        blocks=size.blocks,
        prompt_embeds=np.zeros((1, 4096), np.float32) if full else None,
    )
    rng = np.random.default_rng(3)
    num_views = 1 if full else size.online_views
    rgb = rng.integers(0, 256, (num_views, *size.image, 3), dtype=np.uint8)
    seconds = []
    for index in range(2 if full else 4):
        ids = [f"{index}_{view}" for view in range(num_views)]
        start_s = time.perf_counter()
        (features,) = backbone.encode(rgb, scene_id="bench", view_ids=ids).values()
        seconds.append((time.perf_counter() - start_s) / num_views)
    return seconds[1:], int(features.shape[-1])


def bench_online(folder: Path, full: bool, size: Size) -> dict[str, object]:
    """An epoch with the prior computed in every step against the same epoch from the store.

    The semantic stream stays cached on both sides, which favours the online one.
    """
    seconds, gen_dim = encode_seconds(folder, full, size)
    encode_s = statistics.median(seconds)
    same = replace(size, gen_dim=gen_dim)
    urls = write_stores(folder / "same_width", same)
    trainer = trainer_of(urls, folder / "run", same)
    feed = trainer.make_loader(0).batches(trainer._requests())
    steps = max(1, trainer.plan.order.samples_per_epoch // size.batch_size)
    trainer._step(feed)
    epochs = []
    for _ in range(max(2, min(5, size.rounds // 3))):
        start_s = time.perf_counter()
        for _ in range(steps):
            trainer._step(feed)
        epochs.append(time.perf_counter() - start_s)
    feed.close()
    cached_s = statistics.median(epochs)
    views = steps * size.batch_size * trainer.config.views_per_sample
    return {
        "views": views,
        "encode a view, s": round(encode_s, 4),
        "cached epoch, s": round(cached_s, 3),
        "online epoch, s": round(cached_s + views * encode_s, 2),
        "times faster": round((cached_s + views * encode_s) / cached_s, 1),
        "channels": same.gen_dim,
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
        print(json.dumps(run(Path(place), "full" in sys.argv[1:], Size()), indent=1))
