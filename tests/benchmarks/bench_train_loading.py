"""How fast cached features are read: by reader, and by the loader as a whole.

As plain tests, on tiny sizes: `pytest tests/benchmarks/bench_train_loading.py`. For numbers:
`OMP_NUM_THREADS=1 python tests/benchmarks/bench_train_loading.py`, which writes about 230 MB of
synthetic features in the real shape (14 x 14 tokens, 1536 and 1152 channels, float16, 32 views a
scene) and prints medians and quartiles over twelve rounds. Files are in the page cache: what is
measured is the readers, not the disk. Every reader verifies the chunks' crc32c.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from numbered import numbered

from vega3d.pipeline import open_store
from vega3d.pipeline.imports import import_arrays
from vega3d.train.chunks import bytes_of, open_chunks, page_aligned
from vega3d.train.loader import Loader
from vega3d.train.order import Sample
from vega3d.train.pairing import pair_stores


@dataclass(frozen=True)
class Size:
    scenes: int = 4
    views: int = 32
    grid: int = 14
    gen_dim: int = 1536
    sem_dim: int = 1152
    rounds: int = 12
    epochs: int = 8


TINY = Size(scenes=2, views=3, grid=2, gen_dim=16, sem_dim=8, rounds=2, epochs=2)


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
        import_arrays(urls[-1], scenes, model=name, scenes_per_shard=2)
    return urls[0], urls[1]


def shard_files(url: str) -> list[Path]:
    return sorted(Path(url, "b0").glob("c.*"))


def rates(work: Callable[[], int], rounds: int) -> dict[str, float]:
    """Return GB/s of `work`, which returns the bytes it read: median and quartiles."""
    work()
    found = []
    for _ in range(rounds):
        start_s = time.perf_counter()
        size_bytes = work()
        found.append(size_bytes / (time.perf_counter() - start_s) / 1e9)
    low, middle, high = statistics.quantiles(found, n=4)
    return {"median": round(middle, 3), "q1": round(low, 3), "q3": round(high, 3)}


def raw_reader(urls: list[str], piece_bytes: int = 1 << 20, pieces: int = 1) -> Callable[[], int]:
    """Whole files in order, into a few buffers that are used again and again.

    One buffer of 1 MiB stays in the processor's cache, so that is the page cache's own speed; a
    loader has to bring the bytes to memory, as the buffers of a batch's size do. They begin at
    a page, as the loader's do: copies go there up to twice as fast, and without that the loader
    would win by its alignment.
    """
    buffers = [page_aligned((piece_bytes,), np.dtype(np.uint8)) for _ in range(pieces)]

    def work() -> int:
        total = turn = 0
        for url in urls:
            for path in shard_files(url):
                with path.open("rb", buffering=0) as file:
                    while count := file.readinto(buffers[turn % pieces].data):
                        total, turn = total + count, turn + 1
        return total

    return work


def view_readers(url: str) -> dict[str, Callable[[int, int, np.ndarray], None]]:
    """One view into memory, by every library that is here."""
    import zarr

    readers: dict[str, Callable[[int, int, np.ndarray], None]] = {}
    store = open_store(url)
    chunks = open_chunks(store, "b0")
    readers["direct"] = lambda row, view, out: chunks.read_into(row, view, bytes_of(out))

    def through(array: object) -> Callable[[int, int, np.ndarray], None]:
        def read(row: int, view: int, out: np.ndarray) -> None:
            out[...] = np.asarray(array[row, view]).reshape(out.shape)

        return read

    readers["zarr-python"] = through(zarr.open_array(f"{url}/b0", mode="r"))
    try:
        import zarrs  # noqa: F401 - registers its pipeline

        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            readers["zarrs"] = through(zarr.open_array(f"{url}/b0", mode="r"))
    except ImportError:
        pass
    try:
        import tensorstore

        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{url}/b0"}}
        opened = tensorstore.open(spec, read=True).result()

        def read(row: int, view: int, out: np.ndarray) -> None:
            out[...] = opened[row, view].read().result().reshape(out.shape)

        readers["tensorstore"] = read
    except ImportError:
        pass
    return readers


def bench_readers(url: str, size: Size) -> dict[str, dict[str, float]]:
    out = np.empty((size.grid**2, size.gen_dim), dtype=np.float16)
    order = np.random.default_rng(1).permutation(size.scenes * size.views)
    want = open_store(url).features("scene0")[0].reshape(out.shape)
    found = {
        "raw sequential, 1 MiB buffer": rates(raw_reader([url]), size.rounds),
        "raw sequential, batch buffers": rates(raw_reader([url], 17 << 20, 5), size.rounds),
        "raw sequential, read_bytes": rates(
            lambda: sum(len(path.read_bytes()) for path in shard_files(url)), size.rounds
        ),
    }
    for name, read in view_readers(url).items():

        def work(read: Callable[[int, int, np.ndarray], None] = read) -> int:
            for index in order:
                read(int(index) // size.views, int(index) % size.views, out)
            return len(order) * out.nbytes

        read(0, 0, out)
        np.testing.assert_array_equal(out, want)
        found[f"{name}, random views"] = rates(work, size.rounds)
    return found


def bench_loader(urls: tuple[str, str], size: Size) -> dict[str, object]:
    """The loader alone against raw reading of the same files, round by round in turn."""
    pairing = pair_stores(*urls)
    views = [(name, view) for name in pairing.scene_ids for view in range(size.views)]
    mixed = [views[i] for i in np.random.default_rng(2).permutation(len(views))]
    samples = [Sample(name, (view,)) for name, view in mixed]
    step = max(1, min(16, len(samples)))
    epoch = [samples[i : i + step] for i in range(0, len(samples) - step + 1, step)]
    requests = epoch * size.epochs  # an epoch of so few scenes is over before threads are warm
    batch_bytes = step * size.grid**2 * (size.gen_dim + size.sem_dim) * 2
    raw = raw_reader(list(urls), batch_bytes, pieces=5)
    found: dict[str, object] = {}
    for workers in (0, 1, 2):
        loader = Loader(pairing, min_depth_share=0.5, workers=workers, prefetch=4)

        def work(loader: Loader = loader) -> int:
            return sum(batch.gen.nbytes + batch.sem.nbytes for batch in loader.batches(requests))

        work()
        raw()
        ratios, speeds = [], []
        for _ in range(size.rounds):
            start_s = time.perf_counter()
            loaded = work()
            middle_s = time.perf_counter()
            read = sum(raw() for _ in range(size.epochs))
            end_s = time.perf_counter()
            speeds.append(loaded / (middle_s - start_s) / 1e9)
            ratios.append(speeds[-1] / (read / (end_s - middle_s) / 1e9))
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[f"{workers} workers"] = {
            "GB/s": round(statistics.median(speeds), 3),
            "of raw sequential into batch buffers": round(middle, 3),
            "q1": round(low, 3),
            "q3": round(high, 3),
        }
    return found


def run(folder: Path, size: Size) -> dict[str, object]:
    urls = write_stores(folder, size)
    files = [path for url in urls for path in shard_files(url)]
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "bytes": sum(path.stat().st_size for path in files),
        "readers, GB/s": bench_readers(urls[0], size),
        "loader": bench_loader(urls, size),
    }


def test_every_reader_and_the_loader_run(tmp_path: Path) -> None:
    found = run(tmp_path, TINY)
    assert "direct, random views" in found["readers, GB/s"]
    assert set(found["loader"]) == {"0 workers", "1 workers", "2 workers"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as place:
        print(json.dumps(run(Path(place), Size()), indent=1))
