"""What one view takes on this machine, stage by stage, beside the way that the classes offer it.

Without `--full` the published sizes of Wan2.1-1.3B run with two blocks of random weights: the
seconds of 21 blocks, and of the naive way's 30, are those two scaled by their number, which are
alike. What is read are captures of ScanNet's sizes: 1296x968 JPEG, 640x480 PNG.
"""

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.checkpoints import planned_facts
from vega3d.pipeline.backbones.encoder import Encoder, Views
from vega3d.pipeline.backbones.numerics import Numerics, apply_numerics, environment, gpu_kernels
from vega3d.pipeline.backbones.settings import size_text
from vega3d.pipeline.backbones.tiny import write_random_wan
from vega3d.pipeline.backbones.wan import WanConfig, WanEncoder
from vega3d.pipeline.backbones.wan_naive import Naive
from vega3d.pipeline.config import ExtractConfig, JpegSize
from vega3d.pipeline.extract import open_for
from vega3d.pipeline.feeding import fed_config, feed, write_captures
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.limits import SCANNET_COLOR
from vega3d.pipeline.places import bench_file
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.store.one_pass import channel_absmax, token_moments
from vega3d.pipeline.worker import UnitWriter

BLOCKS_RUN, TAP, BLOCKS = 2, 20, 30
"""Blocks of the reduced model, the paper's tap, and blocks of the published model."""

_PEAK_TRIALS = 8
_TEXT_DIM = 4096

_VIEWS = {"cpu": 1, "cuda": 16}
"""Of each scene, and of what is timed: a GPU is measured with a batch, a CPU has no use for one."""

_FED_SCENES, _FED_VIEWS = 20, 8
"""What the cores' work for a view is measured on."""


def bench(config: ExtractConfig, numerics: Numerics, *, full: bool, repeats: int) -> dict[str, Any]:
    """Measure an encoder and the pipeline around it.

    Args:
        config: Which encoder; of Wan's published sizes, weights are random and made here.
        numerics: Threads, device and batch size.
        full: All blocks of the published sizes, not two and scaled.
        repeats: Measured passes after one warm-up.
    """
    apply_numerics(numerics)
    views = _VIEWS[numerics.device]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_captures(place / "captures", views)
        made, depth = _with_model(config, full, place)
        made = replace(made, num_views=views, scenes_per_shard=1)
        measured = _Measured(made, numerics, repeats, place)
        ran, parts = measured.run(), measured.parts(depth)
        peak = measured.peak_tflops()  # before feed, which leaves one thread
        facts = planned_facts(config.backbone) if depth.run != 1 else measured.facts
        flops = config.backbone.flops_per_view(facts, measured.canvas, views)
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        captures = write_captures(place / "many", _FED_VIEWS, scenes=_FED_SCENES)
        feed(captures, place / "warm", fed_config(_FED_VIEWS, 4))  # compiles, and meets new memory
        fed, scaled = (
            feed(captures, place / jpeg, fed_config(_FED_VIEWS, 4, jpeg)).cpu_s_per_view
            for jpeg in get_args(JpegSize)
        )
    model_s = parts["stages_s"]["model"]
    found = {
        **parts,
        "stages_s": {**ran["stages_s"], **parts["stages_s"]},
        "efficiency": parts["busy_s_per_view"] * ran["views"] / ran["run_s"],
        "views_per_s": 1 / model_s,
        "tflop_per_view": flops / 1e12,
        "tflops": flops / 1e12 / model_s,
        "peak_tflops": peak,
        "share_of_peak": flops / 1e12 / model_s / peak,
        "feeding_cpu_s_per_view": fed,
        "feeding_scaled_cpu_s_per_view": scaled,
        "cores_per_100_views_per_s": 100 * fed,
        "load_s": measured.load_s,
        "resolution": size_text(measured.canvas),
        "scaled": depth.told,
        "peak_memory_gb": peak_gb,
        "environment": environment(numerics.device),
    }
    if numerics.device == "cuda":
        found["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def save(found: dict[str, Any], config: ExtractConfig, numerics: Numerics) -> str:
    """Write the table to where `plan` finds it; returns the place."""
    dtype = str(getattr(config.backbone, "dtype", "float32"))
    file = bench_file(config.backbone.name, numerics.device, dtype)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, (json.dumps(found, indent=1) + "\n").encode())
    return str(file)


def table(found: dict[str, Any]) -> list[str]:
    """Return the result as lines for a person."""
    naive = found.get("naive", {})
    lines = [f"{'stage':<10}{'ms a view':>12}{'naive':>12}"]
    for name, seconds in found["stages_s"].items():
        beside = f"{1000 * naive[name]:>12.1f}" if name in naive else ""
        lines.append(f"{name:<10}{1000 * seconds:>12.1f}{beside}")
    lines.append(
        f"{found['views_per_s']:.3g} views/s of the model, {found['tflops']:.3g} TFLOP/s: "
        f"{100 * found['share_of_peak']:.0f} % of the measured {found['peak_tflops']:.3g}"
    )
    if naive:
        lines.append(
            f"{found['times_naive']:.2f} times the naive way; the taps differ by "
            f"{found['relative_l2']:.1e} (relative L2)"
        )
    lines.append(
        f"the model is busy {100 * found['efficiency']:.0f} % of a run's time; "
        f"{found['peak_memory_gb']:.1f} GB of memory at most"
    )
    lines.append(
        f"beside a GPU a view takes {1000 * found['feeding_cpu_s_per_view']:.1f} ms of a core: "
        f"100 views/s take {found['cores_per_100_views_per_s']:.1f} cores, "
        f"{100 * found['feeding_scaled_cpu_s_per_view']:.1f} with --jpeg scaled"
    )
    return [*lines, found["scaled"]] if found["scaled"] else lines


@dataclass(frozen=True, slots=True)
class Depth:
    """How the blocks that run stand for those that are meant."""

    run: int
    ours: int
    naive: int
    folder: Path | None

    @property
    def told(self) -> str:
        """Say what was scaled; "" where nothing was."""
        if self.run == self.naive:
            return ""
        return (
            f"{self.run} blocks were run; ours is scaled to {self.ours} and the naive way to "
            f"{self.naive}, which are alike (--full runs them all)"
        )


def _with_model(config: ExtractConfig, full: bool, place: Path) -> tuple[ExtractConfig, Depth]:
    """Return the config with weights that are here: Wan's published sizes are made."""
    backbone = config.backbone
    if not isinstance(backbone, WanConfig) or backbone.model not in backbone.published:
        is_wan = isinstance(backbone, WanConfig) and Path(backbone.model).is_dir()
        folder = Path(cast("Any", backbone).model) if is_wan else None
        return config, Depth(1, 1, 1, folder)
    write_random_wan(place / "wan", num_layers=BLOCKS if full else BLOCKS_RUN)
    tap = TAP if full else BLOCKS_RUN - 1
    made = replace(config, backbone=replace(backbone, model=str(place / "wan"), blocks=(tap,)))
    if full:
        return made, Depth(1, 1, 1, place / "wan")
    return made, Depth(BLOCKS_RUN, TAP + 1, BLOCKS, place / "wan")


class _Measured:
    """One encoder, loaded once, in the pipeline and alone."""

    def __init__(
        self, config: ExtractConfig, numerics: Numerics, repeats: int, place: Path
    ) -> None:
        self._config, self._numerics, self._repeats, self._place = config, numerics, repeats, place
        source = read_scenes(str(place / "captures"))
        prompt = _prompt_file(place)
        self._plan, model, store = open_for(source, str(place / "store"), config, numerics, prompt)
        self.facts, self._prompt = model.facts, model.prompt
        self._writer = UnitWriter(source, model, store)
        start = time.perf_counter()
        loaded = self._writer.backbone
        assert isinstance(loaded, Backbone)  # it was given no other encoder
        self._backbone = loaded
        self.load_s = time.perf_counter() - start
        self.canvas = self._backbone.canvas(*SCANNET_COLOR)
        rng = np.random.default_rng(0)
        self._given = Views(
            rgb=rng.integers(0, 256, (config.num_views, *SCANNET_COLOR, 3), dtype=np.uint8),
            placement=config.backbone.placement(self.facts, *SCANNET_COLOR),
            scene_id="bench",
            view_ids=tuple(str(index) for index in range(config.num_views)),
            device=numerics.device,
            batch_size=self._writer.store.numerics["batch_size"],
        )

    def run(self) -> dict[str, Any]:
        """Extract two scenes as a run does, and return what its stages took."""
        self._pooled()  # warm-up, and numba's, which compiles once per machine
        token_moments(np.zeros((1, 1), dtype=np.float16))
        channel_absmax(np.zeros((1, 1), dtype=np.float32), np.ones(1, dtype=bool))
        files = sorted(path for path in (self._place / "captures").rglob("*") if path.is_file())
        start = time.perf_counter()
        for path in files:
            path.read_bytes()
        read_s = time.perf_counter() - start
        start = time.perf_counter()
        results = list(run_inline(self._writer, self._plan.units))
        run_s = time.perf_counter() - start
        views = sum(result.views for result in results)
        decode_s, write_s = (
            sum(one.seconds[name] for one in results) for name in ("decode", "store")
        )
        stages = {"read": read_s / views, "decode": decode_s / views, "write": write_s / views}
        return {"run_s": run_s, "views": views, "stages_s": stages}

    def parts(self, depth: Depth) -> dict[str, Any]:
        """Return each stage's seconds a view, ours and the naive way's, and how far they differ."""
        encoder, views = self._backbone.encoder, len(self._given)
        pooled_s, _ = self._timed(self._pooled)
        with _watched_latents(encoder) as watched:
            model_s, tokens = self._timed(lambda: self._tokens(encoder))
        found: dict[str, Any] = {"busy_s_per_view": model_s / views}
        stages = {"pool": max(0.0, pooled_s - model_s) / views}
        if isinstance(encoder, WanEncoder):
            # Of the same passes: a difference of two medians may be anything.
            each = np.reshape(watched, (self._repeats + 1, -1)).sum(axis=1)
            vae_s = float(np.median(each[1:]))  # without the warm-up
            with torch.inference_mode():
                latents = encoder.latents(self._given)
            dit_s = max(model_s - vae_s, 0.0) * depth.ours / depth.run
            model_s = vae_s + dit_s
            stages = {"vae": vae_s / views, "dit": dit_s / views, **stages}
            if depth.folder is not None:
                first = torch.cat([values for tap, values in tokens if tap == tokens[0][0]])
                found |= self._naive(depth, latents, first)
                found["times_naive"] = found["naive"]["model"] * views / model_s
        return {**found, "stages_s": {**stages, "model": model_s / views}}

    def peak_tflops(self) -> float:
        """Return what products of large square matrices reach in the type of the model's.

        The best of several trials: other work on the machine must not make a peak of less.
        """
        side = 8192 if self._numerics.device == "cuda" else 2048
        left = torch.randn((side, side), device=self._numerics.device)
        left = left.to(torch.bfloat16 if self._dtype in ("bfloat16", "float8") else torch.float32)
        seconds = min(self._timed(lambda: left @ left)[0] for _ in range(_PEAK_TRIALS))
        return float(2 * side**3 / seconds / 1e12)

    def _naive(self, depth: Depth, latents: Tensor, tokens: Tensor) -> dict[str, Any]:
        """Return the naive way's seconds, and how far its tap is from ours on the same latents."""
        config = cast("WanConfig", self._config.backbone)
        assert depth.folder is not None  # asked by the caller
        naive = Naive(depth.folder, self.facts.blocks[0], self._dtype, self._numerics.device)
        pixels, views, timestep = self._given.pixels(), len(self._given), config.timesteps[0]
        vae_s, _ = self._timed(lambda: naive.latents(pixels))
        noise = self._given.noise(config.noise_seed, timestep, 0, tuple(latents.shape[1:]))
        video = (1 - timestep / 1000) * latents + timestep / 1000 * noise
        rows = self._prompt["prompt_embeds"]
        dit_s, theirs = self._timed(lambda: naive.tap(video, timestep, rows))
        dit_s *= depth.naive / depth.run
        apart = (tokens.reshape(theirs.shape) - theirs).norm() / theirs.norm()
        seconds = {"vae": vae_s / views, "dit": dit_s / views, "model": (vae_s + dit_s) / views}
        return {"naive": seconds, "relative_l2": float(apart)}

    def _tokens(self, encoder: Encoder) -> list[tuple[str, Tensor]]:
        """Return every tap of the views, which go in as many at a time as in a run."""
        size = self._backbone.views_at_once or len(self._given)
        return [
            (tap, torch.as_tensor(values))
            for batch in self._given.batches(size)
            for tap, values in encoder.tokens(batch)
        ]

    def _pooled(self) -> object:
        given = self._given
        return self._backbone.encode_pooled(
            given.rgb, self._config.grid, scene_id=given.scene_id, view_ids=given.view_ids
        )

    @property
    def _dtype(self) -> str:
        return str(getattr(self._config.backbone, "dtype", "float32"))

    def _timed(self, function: Callable[[], Any]) -> tuple[float, Any]:
        with torch.inference_mode(), gpu_kernels(self._dtype, self._numerics.device):
            return _timed(function, self._repeats)


def _prompt_file(place: Path) -> str:
    """Return a file of prompt rows for weights that were made here, which have no text encoder."""
    if not (place / "wan").is_dir():
        return ""
    rows = np.random.default_rng(0).standard_normal((1, _TEXT_DIM), dtype=np.float32)
    save_file({"prompt_embeds": rows}, file := place / "prompt.safetensors")
    return str(file)


@contextmanager
def _watched_latents(encoder: Any) -> Iterator[list[float]]:  # noqa: ANN401 - any family's
    """Give a list to which each pass of Wan's VAE adds its seconds; of other encoders nothing."""
    seconds: list[float] = []
    if not isinstance(encoder, WanEncoder):
        yield seconds
        return
    latents = encoder.latents

    def watched(views: Views) -> Tensor:
        start = time.perf_counter()
        found = latents(views)
        if found.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        return found

    encoder.latents = watched  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        del encoder.latents


def _timed(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the median of a function's seconds after a warm-up, and what it gave."""
    seconds, given = [], None
    for _ in range(repeats + 1):
        start = time.perf_counter()
        given = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), given
