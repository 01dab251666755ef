"""Files to a store on a GPU, whole runs side by side: the naive way, and our inline runner.

    PYTHONPATH=.typing python tests/benchmarks/bench_gpu_run.py --out DIR [--limit 200] [--tiny]

Captures have ScanNet's sizes (1296x968 JPEG, 640x480 PNG), models Wan2.1-1.3B's with random
weights, both in bfloat16; loading and compiling are not counted. Naive: Pillow reads and resizes a
colour image, diffusers' eager VAE takes it alone, all 30 blocks take the views one by one or a
scene at once, a hook keeps block 20, tokens are pooled on the GPU and torch saves a scene. It
reads no depth and hashes nothing. Ours does all that a run does: depth, geometry, previews, hashes,
fsync. Then what needs a machine's cores and no GPU: how busy a stage of 10 ms a view is kept, and a
unit's write. Results are in DIR/gpu_run.json.
"""

import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import bench_feeding
import bench_unit_write
import numpy as np
import torch
from bench_gpu import GRID, SIGMA, TIMESTEP, Bench, Results, Sizes, run_script, timed, wait
from PIL import Image, ImageOps
from torch import Tensor, nn

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import ExtractConfig, JpegSize
from vega3d.pipeline.feeding import Fed, extract_with, fed_config, write_captures

GREY = (127, 127, 127)


class Naive:
    """The plain way with diffusers' two classes in eager bfloat16."""

    def __init__(self, bench: Bench) -> None:
        """Cast copies of the models."""
        self.sizes, self.device, self.bench = bench.sizes, bench.device, bench
        self.vae = copy.deepcopy(bench.vae).bfloat16()
        self.dit = copy.deepcopy(bench.dit).bfloat16()
        self.mean, self.std = bench.constants()
        self.kept = dict[str, Tensor]()
        self.dit.blocks[self.sizes.tap].register_forward_hook(
            lambda _m, _i, out: self.kept.update(tap=out)
        )

    def latent(self, path: Path) -> Tensor:
        """Read one view and encode it."""
        rows, cols = self.sizes.canvas
        image = Image.open(path).convert("RGB")
        placed = ImageOps.pad(image, (cols, rows), Image.Resampling.BICUBIC, GREY)
        pixels = torch.from_numpy(np.array(placed)).to(self.device).permute(2, 0, 1)
        video = (pixels.float() / 127.5 - 1).bfloat16()[None, :, None]
        return (self.vae.encode(video).latent_dist.mode().float() - self.mean) / self.std

    def scene(self, folder: Path, out: Path, batch: int) -> int:
        """Extract a scene to a file; returns how many views it has."""
        paths = sorted((folder / "color").iterdir())
        rows, cols = self.sizes.canvas[0] // 16, self.sizes.canvas[1] // 16
        features = list[Tensor]()
        with torch.inference_mode():
            latents = torch.cat([self.latent(path) for path in paths])
            for part in latents.split(batch):
                noised = (1 - SIGMA) * part + SIGMA * torch.randn_like(part)
                time_row = torch.tensor([TIMESTEP], device=self.device).expand(len(part))
                text = self.bench.text(len(part)).bfloat16()
                self.dit(noised.bfloat16(), time_row, text, return_dict=False)
                tokens = self.kept["tap"].float().unflatten(1, (rows, cols)).permute(0, 3, 1, 2)
                features.append(nn.functional.adaptive_avg_pool2d(tokens, GRID).half().cpu())
        torch.save(torch.cat(features), out)
        return len(paths)

    def run(self, captures: Path, out: Path, batch: int) -> dict[str, float]:
        """Extract a folder twice, the first time to warm up."""
        scenes = sorted(captures.iterdir())
        self.scene(scenes[0], out, batch)
        wait()
        start = time.perf_counter()
        views = sum(self.scene(scene, out, batch) for scene in scenes)
        wait()
        return {"ms_per_view": 1e3 * (time.perf_counter() - start) / views}


class Runs:
    """A folder of captures, and what extracts it."""

    def __init__(self, bench: Bench, folder: Path, scenes: int) -> None:
        """Write the captures."""
        self.bench, self.folder = bench, folder
        size, views = bench.sizes.image, bench.sizes.views
        self.few = write_captures(folder / "few", views, size)
        self.many = write_captures(folder / "many", views, size, scenes)
        self.naive_ms, self.turn = math.inf, 0

    def naive(self) -> dict[str, Any]:
        """Time the naive way, the views one by one through the blocks and a scene at once."""
        naive, found = Naive(self.bench), dict[str, Any]()
        for batch in (1, self.bench.sizes.views):
            found[f"batch_{batch}"] = naive.run(self.few, self.folder / "naive.pt", batch)
        self.naive_ms = min(each["ms_per_view"] for each in found.values())
        return {**found, "views_per_s": 1e3 / self.naive_ms}

    def ours(
        self, canvas: tuple[int, int], batch: int, repeats: int, *, compiled: bool
    ) -> dict[str, Any]:
        """Time whole runs at a canvas, and the model alone on decoded views."""
        sizes = self.bench.sizes
        sizes.canvas = canvas
        torch._dynamo.reset()
        backbone, _ = self.bench.encoder("bfloat16", batch, compiled=compiled)
        numerics = Numerics(device=self.bench.device, batch_size=batch)  # type: ignore[arg-type]
        model = timed(
            lambda: backbone.encode_pooled(
                self.bench.rgb, GRID, scene_id="room", view_ids=self.bench.view_ids
            ),
            repeats,
        )

        def run(captures: Path, config: ExtractConfig) -> Fed:
            self.turn += 1
            out = self.folder / f"store{self.turn}"
            return extract_with(backbone, captures, out, config, numerics)

        run(self.few, fed_config(sizes.views))
        model_ms = model["ms"] / sizes.views
        found: dict[str, Any] = {"canvas": canvas, "batch": batch, "model_ms_per_view": model_ms}
        for jpeg in get_args(JpegSize):
            config = fed_config(sizes.views, 4, jpeg)
            found[jpeg] = self._told([run(self.many, config) for _ in range(repeats)], model_ms)
        return found

    def _told(self, runs: Sequence[Fed], model_ms: float) -> dict[str, Any]:
        """Return what whole runs took, beside the model alone and the naive way."""
        wall_ms = [1e3 * each.wall_s / each.views for each in runs]
        median = statistics.median(wall_ms)
        return {
            "views": runs[0].views,
            "run_ms_per_view": sorted(wall_ms),
            "views_per_s": 1e3 / median,
            "model_share_of_run": model_ms / median,
            "times_naive": self.naive_ms / median,
            "cpu_ms_per_view": sorted(1e3 * each.cpu_s_per_view for each in runs),
            "decode_ms_per_view": 1e3 * runs[0].decode_s_per_view,
            "store_ms_per_view": 1e3 * runs[0].store_s_per_view,
        }

    def busy(self, scenes: int, views: int, stage_s: float) -> dict[str, Any]:
        """Tell how busy a stage is kept that is not the GPU's."""
        return {
            jpeg: bench_feeding.bench(self.folder / jpeg, scenes, views, stage_s, jpeg)
            for jpeg in get_args(JpegSize)
        }

    def unit(self, scenes: int, channels: int, repeats: int) -> dict[str, Any]:
        """Time a unit's write."""
        place = self.folder / "unit"
        place.mkdir(exist_ok=True)
        return {
            dtype: bench_unit_write.bench(place, scenes, 32, channels, repeats, dtype)
            for dtype in ("float32", "float16")
        }


def bench(out: Path, *, tiny: bool, device: str, limit_s: float) -> dict[str, Any]:
    """Measure everything that fits the limit, the most wanted first."""
    results = Results(out, limit_s, "gpu_run.json")
    made = Bench(Sizes(tiny=tiny), device, results)
    gpu, wide = device == "cuda", made.sizes.canvas
    whole = (64, 80) if tiny else (480, 640)  # a 4:3 view at its own aspect: the default
    scenes, batch, repeats = (2, 2, 1) if tiny else (16, 16, 3)
    results.part("machine", made.machine)
    results.part("build", made.build)
    with tempfile.TemporaryDirectory() as name:
        runs = Runs(made, Path(name), scenes)
        results.part("naive", runs.naive, 60)
        for label, canvas in (("wide", wide), ("whole", whole)):
            ours: Callable[[], dict[str, Any]] = lambda canvas=canvas: runs.ours(  # noqa: E731
                canvas, batch, repeats, compiled=gpu
            )
            results.part(f"run_{label}", ours, 120)
        results.part("busy", lambda: runs.busy(*((4, 2, 0.01) if tiny else (200, 8, 0.01))), 60)
        results.part("unit", lambda: runs.unit(*((2, 8, 1) if tiny else (4, 1536, 9))), 60)
    results.keep(seconds=round(time.monotonic() - results.start, 1))
    return results.found


def test_the_script_runs_on_tiny_sizes(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    found = bench(tmp_path, tiny=True, device="cpu", limit_s=60)
    assert not [name for name, part in found.items() if "error" in str(part)[:200]]
    assert found["run_whole"]["scaled"]["views_per_s"] > 0


if __name__ == "__main__":
    run_script(bench, 200.0)
