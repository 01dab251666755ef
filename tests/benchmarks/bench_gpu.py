"""Wan2.1-1.3B on a GPU, built, checked and timed by one script: the naive way beside ours.

    PYTHONPATH=.typing python tests/benchmarks/bench_gpu.py --out DIR [--limit 300] [--tiny]

Weights are random, of the published sizes, drawn on the device. Naive: diffusers' classes in
eager bfloat16, one view after the other through the VAE, all 30 blocks with 512 rows of text, a
hook on block 20, tokens to the host and pooled there. Ours: `Backbone.encode_pooled` and
`encode_scene`, as a worker calls them. Every part is measured on its own and kept in
DIR/gpu.json as soon as it is known; one that fails or would outlast the limit is told there.
"""

import argparse
import copy
import json
import math
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.encoder import to_device
from vega3d.pipeline.backbones.float8 import Float8Linear, rounded
from vega3d.pipeline.backbones.gpu_products import linear_gelu, wide_attention
from vega3d.pipeline.backbones.grid import place, plan_placement
from vega3d.pipeline.backbones.noise import view_noise
from vega3d.pipeline.backbones.numerics import Numerics, gpu_kernels
from vega3d.pipeline.backbones.on_device import place_on_device, pool_on_device
from vega3d.pipeline.backbones.wan import WanConfig, WanEncoder
from vega3d.pipeline.backbones.wan_flops import block_flops, full_block_flops, vae_flops
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.features import DecodedScene, Seen, encode_scene
from vega3d.pipeline.scenes.crew import begun
from vega3d.pipeline.scenes.decoding import DecodedView, SceneReport
from vega3d.pipeline.scenes.diagnosis import Diagnosis
from vega3d.pipeline.scenes.pixels import Pixels, digest_of
from vega3d.pipeline.scenes.scene import View

ROWS, TIMESTEP, SIGMA = 512, 300, 0.3
GRID = (14, 14)


class Sizes:
    """What is built and shown: the published sizes, or a caricature for a test."""

    def __init__(self, *, tiny: bool) -> None:
        self.canvas = (64, 96) if tiny else (480, 832)
        self.image = (96, 128) if tiny else (968, 1296)
        self.depth = (48, 64) if tiny else (480, 640)
        self.views = 3 if tiny else 32
        self.depth_blocks, self.tap = (4, 2) if tiny else (30, 20)
        self.batches = (2, 3) if tiny else (8, 16, 4)
        self.square = 256 if tiny else 8192
        self.seen = 2  # views that precision is checked on
        self.dit: dict[str, Any] = (
            {"num_attention_heads": 2, "attention_head_dim": 24, "text_dim": 24, "ffn_dim": 64}
            if tiny
            else {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960}
        )
        self.base_dim = 4 if tiny else 96
        self.repeats = 2 if tiny else 5

    @property
    def tokens(self) -> int:
        return self.canvas[0] * self.canvas[1] // 256

    @property
    def width(self) -> int:
        return int(self.dit["num_attention_heads"] * self.dit["attention_head_dim"])

    def dit_flops(self) -> int:
        """Of ours: a view up to the tap, the prompt folded in."""
        heads, ffn = self.dit["num_attention_heads"], self.dit["ffn_dim"]
        return (self.tap + 1) * block_flops(self.tokens, self.width, heads, ffn)

    def naive_dit_flops(self) -> int:
        return self.depth_blocks * full_block_flops(
            self.tokens, self.width, ROWS, self.dit["ffn_dim"]
        )

    def vae_flops(self, taps: int = 1) -> int:
        return vae_flops(*self.canvas, self.base_dim, taps)


class Results:
    """A document that is on disk after every change, and a clock."""

    def __init__(self, out: Path, limit_s: float, name: str = "gpu.json") -> None:
        self.path, self.found = out / name, dict[str, Any]()
        self.start, self.limit_s = time.monotonic(), limit_s
        out.mkdir(parents=True, exist_ok=True)

    def left_s(self) -> float:
        return self.limit_s - (time.monotonic() - self.start)

    def keep(self, **found: object) -> None:
        self.found.update(found)
        self.path.write_text(json.dumps(self.found, indent=1))

    def part(
        self, name: str, measure: Callable[[], dict[str, Any] | None], most_s: float = 60
    ) -> None:
        """Measure one thing; what goes wrong is its result, and the next thing follows."""
        limit_s = min(most_s, self.left_s())
        if limit_s < 2:
            self.keep(**{name: {"left_out": "the time is up"}})
            return
        began = time.monotonic()
        try:
            with time_limit(limit_s):
                found = measure() or {}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"[:2000]}
            found["where"] = traceback.format_exc()[-1500:]
        seconds = round(time.monotonic() - began, 2)
        self.keep(**{name: {**found, "part_s": seconds}})
        told = json.dumps(self.found[name])
        print(f"{name}: {told[:400]}", file=sys.stderr, flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this thread when the time is up."""

    def stop(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"over {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(function: Callable[[], object], repeats: int = 5) -> dict[str, float]:
    """Return milliseconds after a warm-up: median, least and most."""
    gpu, times = torch.cuda.is_available(), list[float]()
    for _ in range(2 if gpu else 1):
        function()
    for _ in range(repeats if gpu else 1):
        wait()
        start = time.perf_counter()
        function()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return {"ms": statistics.median(times), "least_ms": min(times), "most_ms": max(times)}


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def drawn(model: nn.Module, seed: int, device: str) -> nn.Module:
    """Draw weights on the device: matrices keep the variance of what they map."""
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters(), key=lambda pair: pair[0]):
            draw = torch.randn(weight.shape, generator=generator, device=device)
            if name.endswith("scale_shift_table"):
                draw *= 0.3
            elif weight.ndim == 1 or name.endswith("gamma"):
                draw = 0.02 * draw if "bias" in name else 1 + 0.1 * draw
            else:
                draw /= math.sqrt(math.prod(weight.shape[1:]))
            weight.copy_(draw)
    return model.requires_grad_(False).eval()


class Bench:
    """The models, the pixels, and each measurement."""

    def __init__(self, sizes: Sizes, device: str, results: Results) -> None:
        self.sizes, self.device, self.results = sizes, device, results
        self.repeats = sizes.repeats
        self.peak_tflops: dict[str, float] = {}
        self.best: dict[str, int] = {}

    # ---- what the device can do

    def machine(self) -> dict[str, Any]:
        found: dict[str, Any] = {"torch": torch.__version__, "cpus": os.cpu_count()}
        if self.device == "cuda":
            found["gpu"] = torch.cuda.get_device_name()
            found["memory_gb"] = torch.cuda.get_device_properties(0).total_memory / 1e9
            found["cuda"], found["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
        return found

    def peaks(self) -> dict[str, Any]:
        """Measure matrix products of random numbers, and a copy's bytes read and written."""
        n, found = self.sizes.square, dict[str, Any]()
        a, b = (torch.randn((n, n), device=self.device) for _ in range(2))
        for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
            x, y = a.to(dtype), b.to(dtype)
            found[name] = 2 * n**3 / timed(lambda x=x, y=y: x @ y, 10)["ms"] / 1e9
        if self.device == "cuda":
            with gpu_kernels("tf32", self.device):
                found["tf32"] = 2 * n**3 / timed(lambda: a @ b, 10)["ms"] / 1e9
            x8, y8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
            one = torch.ones((n, 1), device=self.device)
            found["float8"] = 2 * n**3 / timed(
                lambda: torch._scaled_mm(
                    x8, y8, scale_a=one, scale_b=one.t(), out_dtype=torch.bfloat16,
                    use_fast_accum=True,
                ),
                10,
            )["ms"] / 1e9  # fmt: skip
        self.peak_tflops = dict(found)
        big = torch.empty(n * n * 16, dtype=torch.uint8, device=self.device)
        other = torch.empty_like(big)
        copied = timed(lambda: other.copy_(big), 10)["ms"]
        return {"matrix_tflops": found, "copy_tb_per_s": 2 * big.numel() / copied / 1e9}

    # ---- models and inputs

    def build(self) -> dict[str, Any]:
        with torch.device(self.device):
            self.dit = WanTransformer3DModel(num_layers=self.sizes.depth_blocks, **self.sizes.dit)
            self.vae = AutoencoderKLWan(base_dim=self.sizes.base_dim)
        drawn(self.dit, 0, self.device)
        drawn(self.vae, 1, self.device)
        rng = np.random.default_rng(2)
        # Smooth pictures with some noise: as a camera's, and matrix units like zeros too well.
        coarse = rng.integers(0, 256, (self.sizes.views, 12, 16, 3), dtype=np.uint8)
        smooth = place(coarse, plan_placement(12, 16, self.sizes.image, "stretch"))
        grain = rng.integers(-20, 21, smooth.shape, dtype=np.int16)
        self.rgb = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        self.view_ids = [str(index) for index in range(self.sizes.views)]
        self.prompt = rng.standard_normal((1, self.dit.config.text_dim)).astype(np.float32)
        return {
            "dit_parameters": sum(weight.numel() for weight in self.dit.parameters()),
            "tokens": self.sizes.tokens,
            "image": list(self.sizes.image),
            "canvas": list(self.sizes.canvas),
            "views_a_scene": self.sizes.views,
            "dit_tflop_per_view": self.sizes.dit_flops() / 1e12,
            "naive_dit_tflop_per_view": self.sizes.naive_dit_flops() / 1e12,
            "vae_tflop_per_view": self.sizes.vae_flops() / 1e12,
            "naive_vae_tflop_per_view": self.sizes.vae_flops(3) / 1e12,
        }

    def pixels(self, count: int) -> Tensor:
        """Return views on the canvas in [-1, 1], resized on the host as the release does it."""
        views = self.rgb[np.arange(count) % len(self.rgb)]
        placed = place(views, plan_placement(*self.sizes.image, self.sizes.canvas, "pad"))
        values = torch.from_numpy(placed).permute(0, 3, 1, 2).float() / 127.5 - 1
        return values.to(self.device)

    def noise(self, count: int) -> Tensor:
        rows, cols = self.sizes.canvas[0] // 8, self.sizes.canvas[1] // 8
        shape = (16, 1, rows, cols)
        draws = [view_noise(0, "room", view, TIMESTEP, 0, shape) for view in self.view_ids[:count]]
        return torch.from_numpy(np.stack(draws)).to(self.device)

    def constants(self) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, std = torch.tensor([config.latents_mean, config.latents_std]).to(self.device)
        return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)

    def text(self, count: int) -> Tensor:
        padded = np.pad(self.prompt, ((0, ROWS - 1), (0, 0)))
        return torch.from_numpy(padded).to(self.device).expand(count, -1, -1)

    # ---- the slow twin, in float32

    def reference(self) -> dict[str, Any]:
        """Keep latents and every block's output of diffusers' plain forward, in float32."""
        count, kept = self.sizes.seen, list[Tensor]()
        pixels, noise = self.pixels(count), self.noise(count)
        mean, std = self.constants()
        hooks = [
            block.register_forward_hook(lambda _m, _i, out: kept.append(out.clone()))
            for block in self.dit.blocks[: self.sizes.tap + 1]
        ]
        with torch.inference_mode(), gpu_kernels("float32", self.device):
            each = [self.vae.encode(view[None, :, None]).latent_dist.mode() for view in pixels]
            self.latents = (torch.cat(each) - mean) / std
            noised = (1 - SIGMA) * self.latents + SIGMA * noise
            time_row = torch.tensor([float(TIMESTEP)], device=self.device).expand(count)
            self.dit(noised, time_row, self.text(count), return_dict=False)
        for hook in hooks:
            hook.remove()
        self.outputs = kept
        return {"views": count, "blocks": len(kept)}

    # ---- the naive way

    def naive(self) -> dict[str, Any]:
        """Time the plain way in bfloat16: weights cast, eager, view by view, all blocks."""
        vae = copy.deepcopy(self.vae).bfloat16()
        dit = copy.deepcopy(self.dit).bfloat16()
        mean, std = self.constants()
        got = dict[str, Tensor]()
        hook = dit.blocks[self.sizes.tap].register_forward_hook(
            lambda _m, _i, out: got.update(tap=out)
        )
        rows, cols = self.sizes.canvas[0] // 16, self.sizes.canvas[1] // 16
        count = min(4, self.sizes.views)

        def encode(pixels: Tensor) -> Tensor:
            video = pixels.bfloat16()[None, :, None]
            return (vae.encode(video).latent_dist.mode().float() - mean) / std

        def denoise(latents: Tensor) -> Tensor:
            return diffuse((1 - SIGMA) * latents + SIGMA * torch.randn_like(latents))

        def diffuse(noised: Tensor) -> Tensor:
            time_row = torch.tensor([TIMESTEP], device=self.device).expand(len(noised))
            text = self.text(len(noised)).bfloat16()
            dit(noised.bfloat16(), time_row, text, return_dict=False)
            return got["tap"].float()

        def scene(batch: int) -> None:
            pixels = self.pixels(count)
            latents = torch.cat([encode(view) for view in pixels])
            for part in latents.split(batch):
                tokens = denoise(part).unflatten(1, (rows, cols)).permute(0, 3, 1, 2)
                nn.functional.adaptive_avg_pool2d(tokens, GRID).cpu()

        with torch.inference_mode():
            pixels, noise = self.pixels(count), self.noise(1)
            vae_ms = timed(lambda: encode(pixels[0]), self.repeats)
            alone = timed(lambda: denoise(noise), self.repeats)
            seen = torch.cat([encode(view) for view in self.pixels(self.sizes.seen)])
            noised = (1 - SIGMA) * seen + SIGMA * self.noise(self.sizes.seen)
            tap = diffuse(noised)
            whole = {
                f"batch_{batch}": timed(lambda batch=batch: scene(batch), 3)["ms"] / count
                for batch in {1, count}
            }
        hook.remove()
        best = min(whole.values())
        self.naive_ms = best
        return {
            "vae_ms": vae_ms,
            "dit_ms_one_view": alone,
            "dit_tflops": self.sizes.naive_dit_flops() / alone["ms"] / 1e9,
            "end_to_end_ms_per_view": whole,
            "views_per_s": 1e3 / best,
            "vae_relative_l2": apart(seen, self.latents),
            "tap_relative_l2": apart(tap, self.outputs[self.sizes.tap]),
        }

    # ---- ours

    def encoder(self, dtype: str, batch: int, *, compiled: bool) -> tuple[Backbone, WanEncoder]:
        """Return our encoder around copies of the models; it is compiled where it would be."""
        config = WanConfig(
            blocks=(self.sizes.tap,),
            timesteps=(TIMESTEP,),
            resolution=self.sizes.canvas,
            dtype=dtype,  # type: ignore[arg-type]
        )
        dit = copy.copy(self.dit)
        dit._modules = dict(self.dit._modules)
        dit.blocks = self.dit.blocks[: self.sizes.tap + 1]
        configs = {
            "transformer": dict(self.dit.config) | {"_class_name": "WanTransformer3DModel"},
            "vae": dict(self.vae.config) | {"_class_name": "AutoencoderKLWan"},
        }
        facts = config.describe(configs)
        numerics = Numerics(device=self.device, batch_size=batch, threads=2)  # type: ignore[arg-type]
        models = (copy.deepcopy(dit), copy.deepcopy(self.vae))
        made = WanEncoder(config, models, facts, numerics, self.prompt)
        if not compiled:
            for module in (made._vae.frames, *made._dit.model.blocks):
                module._compiled_call_impl = None
        elif self.device == "cpu":
            made._vae.compile()
            made._dit.compile()
        return Backbone(config, facts, numerics, made), made

    def precision(self, dtype: str) -> dict[str, Any]:
        """Compare a mode with the float32 twin: latents, every block alone and in a row."""
        _, made = self.encoder(dtype, 1, compiled=False)
        return self.errors(made, dtype)

    def errors(self, made: WanEncoder, dtype: str) -> dict[str, Any]:
        count = self.sizes.seen
        level = made._levels[TIMESTEP][1]
        with torch.inference_mode(), gpu_kernels(dtype, self.device):
            latents = made._vae.frame_latents(self.pixels(count))
            noise = self.noise(count)
            in_a_row, after_vae = (
                [
                    apart(hidden, want)
                    for (_, hidden), want in zip(
                        made._dit.run(
                            made._dit.embed((1 - SIGMA) * start + SIGMA * noise), start, None,
                            level, frozenset(range(self.sizes.tap + 1)),
                        ),
                        self.outputs,
                        strict=True,
                    )
                ]
                for start in (self.latents, latents)
            )  # fmt: skip
            rotary = made._dit._rotary(latents)
            alone = [
                apart(block(before, level, rotary) - before, after - before)
                for block, before, after in zip(
                    made._dit.model.blocks[1:], self.outputs, self.outputs[1:], strict=False
                )
            ]
        return {
            "vae_relative_l2": apart(latents, self.latents),
            "tap_relative_l2": after_vae[-1],
            "tap_relative_l2_same_latents": in_a_row[-1],
            "after_each_block": [round(value, 7) for value in after_vae],
            "each_block_alone_update": [round(value, 7) for value in alone],
        }

    def stages(self, made: WanEncoder, dtype: str, batch: int) -> dict[str, Any]:
        """Time the VAE and the blocks of a batch."""
        pixels = self.pixels(batch)
        rows, cols = self.sizes.canvas[0] // 8, self.sizes.canvas[1] // 8
        latents = torch.randn((batch, 16, 1, rows, cols), device=self.device)
        level = made._levels[TIMESTEP][1]
        found: dict[str, Any] = {}
        with torch.inference_mode(), gpu_kernels(dtype, self.device):
            start = time.monotonic()
            made._vae.frame_latents(pixels)
            wait()
            found["vae_first_s"] = time.monotonic() - start
            vae = timed(lambda: made._vae.frame_latents(pixels), self.repeats)
            start = time.monotonic()
            self.blocks(made, latents, level)
            wait()
            found["dit_first_s"] = time.monotonic() - start
            dit = timed(lambda: self.blocks(made, latents, level), self.repeats)
        tflops = batch * self.sizes.dit_flops() / dit["ms"] / 1e9
        vae_tflops = batch * self.sizes.vae_flops() / vae["ms"] / 1e9
        peak = self.peak_tflops.get("bfloat16", math.nan)
        return {
            **found,
            "vae_ms_per_view": vae["ms"] / batch,
            "vae_tflops": vae_tflops,
            "dit_ms_per_view": dit["ms"] / batch,
            "dit_tflops": tflops,
            "dit_share_of_bfloat16_peak": tflops / peak,
        }

    def blocks(self, made: WanEncoder, latents: Tensor, level: Tensor) -> Tensor:
        hidden = made._dit.embed(latents)
        ((_, tap),) = made._dit.run(hidden, latents, None, level, frozenset([self.sizes.tap]))
        return tap

    def eager(self, dtype: str) -> dict[str, Any]:
        batch = self.sizes.batches[0]
        _, made = self.encoder(dtype, batch, compiled=False)
        return self.stages(made, dtype, batch)

    def compiled(self, dtype: str, batches: tuple[int, ...]) -> dict[str, Any]:
        """Compile a mode, check it, and time batches of several sizes."""
        torch._dynamo.reset()
        backbone, made = self.encoder(dtype, batches[0], compiled=True)
        if dtype == "bfloat16":
            self.made = (backbone, made)
        found: dict[str, Any] = {}
        for batch in batches:
            found[f"batch_{batch}"] = self.stages(made, dtype, batch)
            self.results.keep(**{f"compiled_{dtype}": found})
        cost = {
            batch: found[f"batch_{batch}"]["vae_ms_per_view"]
            + found[f"batch_{batch}"]["dit_ms_per_view"]
            for batch in batches
        }
        self.best[dtype] = min(cost, key=lambda batch: cost[batch])
        return {**found, "best_batch": self.best[dtype], "errors": self.errors(made, dtype)}

    def scene(self) -> DecodedScene:
        rng = np.random.default_rng(4)
        count = self.sizes.views
        depth = (2 + rng.random((count, *self.sizes.depth))).astype(np.float32)
        height, width = self.sizes.image
        K = np.array([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1.0]])
        small = np.diag([self.sizes.depth[1] / width, self.sizes.depth[0] / height, 1]) @ K
        views = [
            View(
                view_id=one,
                read_rgb=lambda: self.rgb[0],
                K_color=K,
                K_depth=small,
                world_from_camera=np.eye(4),
            )
            for one in self.view_ids
        ]
        room = 1 << 40
        decoded = tuple(
            DecodedView(
                view=view,
                color=Pixels.of(image, view.read_rgb, room, digest_of(image)),
                depth=Pixels.of(depth_m, lambda depth_m=depth_m: depth_m, room, digest_of(depth_m)),
                glance=None,
            )
            for view, image, depth_m in zip(views, self.rgb, depth, strict=True)
        )
        report = SceneReport(
            views=count,
            with_depth=count,
            with_pose=count,
            lost_poses=0,
            repeated_views=(),
            bad_views=(),
            notes=(),
        )
        seen = Seen(report, begun(lambda: "0" * 64), begun(lambda: Diagnosis(state="fits")))
        return DecodedScene("room", decoded, seen)

    def end_to_end(self, backbone: Backbone, batch: int) -> dict[str, Any]:
        """Time scenes of decoded views: the model's way alone, and the whole compute stage."""
        backbone = backbone.with_batch_size(batch)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            others_gb = torch.cuda.memory_allocated() / 1e9
        decoded, count = self.scene(), self.sizes.views
        config = ExtractConfig(backbone=backbone._config, num_views=count, grid=GRID)
        inner = timed(
            lambda: backbone.encode_pooled(self.rgb, GRID, scene_id="room", view_ids=self.view_ids),
            self.repeats,
        )
        outer = timed(lambda: encode_scene(decoded, backbone, config), self.repeats)
        found = {
            "batch": batch,
            "model_views_per_s": 1e3 * count / inner["ms"],
            "stage_views_per_s": 1e3 * count / outer["ms"],
            "stage_ms_per_view": outer["ms"] / count,
            "scene_ms": outer,
        }
        if self.device == "cuda":
            peak_gb = torch.cuda.max_memory_allocated() / 1e9
            found["peak_memory_gb"] = peak_gb - others_gb + self.weights_gb(backbone)
        if hasattr(self, "naive_ms"):
            found["times_naive"] = self.naive_ms * count / outer["ms"]
        return found

    def weights_gb(self, backbone: Backbone) -> float:
        made: Any = backbone._encoder
        parts = (made._vae.frames, made._dit.model)
        held = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
        return sum(tensor.numel() * tensor.element_size() for tensor in held) / 1e9

    def whole(self) -> dict[str, Any]:
        backbone, _ = self.made
        best = self.best.get("bfloat16", self.sizes.batches[0])
        return {f"batch_{size}": self.end_to_end(backbone, size) for size in {best, 8, 16}
                if size <= self.sizes.views}  # fmt: skip

    def profile(self) -> dict[str, Any]:
        """Name the kernels that the time goes into."""
        from torch.profiler import ProfilerActivity, profile

        _, made = self.made
        batch = self.best.get("bfloat16", self.sizes.batches[0])
        pixels = self.pixels(batch)
        rows, cols = self.sizes.canvas[0] // 8, self.sizes.canvas[1] // 8
        latents = torch.randn((batch, 16, 1, rows, cols), device=self.device)
        level = made._levels[TIMESTEP][1]
        kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA][: 1 + (self.device == "cuda")]
        found: dict[str, Any] = {"batch": batch}
        stages = {
            "vae": lambda: made._vae.frame_latents(pixels),
            "dit": lambda: self.blocks(made, latents, level),
        }
        with torch.inference_mode(), gpu_kernels("bfloat16", self.device):
            for name, run in stages.items():
                run()
                with profile(activities=kinds) as seen:
                    run()
                    wait()
                totals = [
                    (event.key[:100], event.count, event.self_device_time_total / 1e3)
                    for event in seen.key_averages()
                    if event.self_device_time_total > 0
                ]
                totals.sort(key=lambda row: -row[2])
                found[name] = [[key, count, round(ms, 3)] for key, count, ms in totals[:25]]
        return found

    def attention(self) -> dict[str, Any]:
        """Time each kernel of attention on the blocks' shape, laid out as the blocks lay it out."""
        batch, heads = self.sizes.batches[0], self.sizes.dit["num_attention_heads"]
        side = self.sizes.dit["attention_head_dim"]
        joined = torch.randn(
            (batch, self.sizes.tokens, 3, heads, side), device=self.device, dtype=torch.bfloat16
        )
        query, key, value = (part.transpose(1, 2) for part in joined.unbind(2))
        flops = 4 * batch * self.sizes.tokens**2 * self.sizes.width
        found: dict[str, Any] = {}
        for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
            try:
                with sdpa_kernel(getattr(SDPBackend, name)), torch.inference_mode():
                    ms = timed(
                        lambda: nn.functional.scaled_dot_product_attention(query, key, value), 10
                    )["ms"]
                found[name] = {"ms": ms, "tflops": flops / ms / 1e9}
            except RuntimeError as error:
                found[name] = str(error)[:200]
        return found

    def products(self) -> dict[str, Any]:
        """Time the blocks' linear layers alone, in bfloat16 and in 8 bits."""
        batch, width = self.sizes.batches[0], self.sizes.width
        rows, ffn = batch * self.sizes.tokens, self.sizes.dit["ffn_dim"]
        found: dict[str, Any] = {}
        shapes = {"qkv": (width, 3 * width), "out": (width, width), "expand": (width, ffn),
                  "shrink": (ffn, width)}  # fmt: skip
        for name, (inputs, outputs) in shapes.items():
            layer = nn.Linear(inputs, outputs, device=self.device, dtype=torch.bfloat16)
            x = torch.randn((rows, inputs), device=self.device, dtype=torch.bfloat16)
            flops = 2 * rows * inputs * outputs
            with torch.inference_mode():
                ms = timed(lambda layer=layer, x=x: layer(x), 10)["ms"]
                found[name] = {"tflops": flops / ms / 1e9}
                if self.device != "cuda":
                    continue
                small = Float8Linear(layer)
                x8, scale = rounded(x)
                ms = timed(
                    lambda small=small, x8=x8, scale=scale: torch._scaled_mm(
                        x8, small.weight.t(), scale_a=scale, scale_b=small.scale,
                        bias=small.bias, out_dtype=torch.bfloat16, use_fast_accum=True,
                    ),
                    10,
                )["ms"]  # fmt: skip
                found[name]["float8_tflops"] = flops / ms / 1e9
                if name == "expand":
                    ms = timed(
                        lambda layer=layer, x=x: linear_gelu(x[None], layer.weight, layer.bias), 10
                    )["ms"]
                    found[name]["with_gelu_tflops"] = flops / ms / 1e9
        return found

    def convolutions(self) -> dict[str, Any]:
        """Time the VAE's main convolutions and its attention in the ways that there are."""
        batch, base = self.sizes.batches[-1], self.sizes.base_dim
        rows, cols = self.sizes.canvas
        found: dict[str, Any] = {}
        with torch.inference_mode():
            for level, (scale, factor) in enumerate(((1, 1), (2, 2), (4, 4), (8, 4))):
                channels = base * factor
                conv = nn.Conv2d(channels, channels, 3, padding=1, device=self.device,
                                 dtype=torch.bfloat16)  # fmt: skip
                conv.to(memory_format=torch.channels_last)
                shape = (batch, channels, rows // scale, cols // scale)
                x = torch.randn(shape, device=self.device, dtype=torch.bfloat16)
                x = x.contiguous(memory_format=torch.channels_last)
                flops = 18 * channels**2 * x.numel() / channels
                for name, searched in (("heuristic", False), ("searched", True)):
                    with torch.backends.cudnn.flags(enabled=True, benchmark=searched):
                        ms = timed(lambda conv=conv, x=x: conv(x), 5)["ms"]
                    found.setdefault(f"level_{level}", {})[name] = flops / ms / 1e9
            shape = (batch, 1, rows * cols // 64, 4 * base)
            q, k, v = (torch.randn(shape, device=self.device).bfloat16() for _ in range(3))
            attend = nn.functional.scaled_dot_product_attention
            found["attention_fused_ms"] = timed(lambda: attend(q, k, v), 3)["ms"] / batch
            if self.device == "cuda":
                q, k, v = q[:, 0], k[:, 0], v[:, 0]
                ours = timed(lambda: wide_attention(q, k, v), 3)["ms"]
                found["attention_ours_ms"] = ours / batch
        return found

    def graphs(self) -> dict[str, Any]:
        """Replay VAE and blocks as one CUDA graph: what launches cost at small batches."""
        _, made = self.made
        rows, cols = self.sizes.canvas[0] // 8, self.sizes.canvas[1] // 8
        level, found = made._levels[TIMESTEP][1], dict[str, Any]()
        for batch in (2, 4, 8):
            pixels = self.pixels(batch)
            noise = torch.randn((batch, 16, 1, rows, cols), device=self.device)

            def run(pixels: Tensor = pixels, noise: Tensor = noise) -> Tensor:
                latents = made._vae.frame_latents(pixels)
                return self.blocks(made, (1 - SIGMA) * latents + SIGMA * noise, level)

            with torch.inference_mode(), gpu_kernels("bfloat16", self.device):
                plain = timed(run, self.repeats)["ms"] / batch
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    run()
                replayed = timed(graph.replay, self.repeats)["ms"] / batch
            found[f"batch_{batch}"] = {"plain_ms_per_view": plain, "graph_ms_per_view": replayed}
        return found

    def feeding(self) -> dict[str, Any]:
        """Time what surrounds the model: upload, resize, noise, pooling, geometry."""
        count = min(8, self.sizes.views)
        placement = plan_placement(*self.sizes.image, self.sizes.canvas, "pad")
        there = to_device(self.rgb[:count], self.device)
        tokens = (self.sizes.canvas[0] // 16, self.sizes.canvas[1] // 16)
        features = torch.randn((count, *tokens, self.sizes.width), device=self.device)
        where = placement.token_map(16)
        same = place(self.rgb[:count], placement) == place_on_device(there, placement).cpu().numpy()
        found = {
            "upload_ms": timed(lambda: to_device(self.rgb[:count], self.device)),
            "resize_ms": timed(lambda: place_on_device(there, placement)),
            "resize_on_host_ms": timed(lambda: place(self.rgb[:count], placement), 3),
            "noise_ms": timed(lambda: self.noise(count), 3),
            "pool_ms": timed(
                lambda: pool_on_device(features, where, *self.sizes.image, GRID)
            ),
        }  # fmt: skip
        told: dict[str, Any] = {name: value["ms"] / count for name, value in found.items()}
        return {**told, "resized_bytes_equal_share": float(same.mean())}

    def training(self) -> dict[str, Any]:
        """Time a fusion's step with features kept on the device, and streamed to it."""
        from vega3d.train.fusion import GatedFusion

        tokens, gen_dim, sem_dim, hidden = (196, 1536, 1152, 1024)
        scenes, batch, views = (64, 16, 8)
        if self.sizes.square < 1000:
            tokens, gen_dim, sem_dim, hidden, scenes, batch, views = (4, 8, 6, 8, 4, 2, 2)
        width = gen_dim + sem_dim
        pin = self.device == "cuda"
        host = torch.empty((scenes, views, tokens, width), dtype=torch.float16, pin_memory=pin)
        host.normal_()
        kept = host.to(self.device)
        model = GatedFusion(gen_dim=gen_dim, sem_dim=sem_dim, hidden_dim=hidden).to(self.device)
        head = nn.Linear(hidden, 1).to(self.device)
        weights = [*model.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(weights, fused=pin)

        def step(features: Tensor) -> None:
            with torch.autocast(self.device, torch.bfloat16):
                gen, sem = features.bfloat16().split((gen_dim, sem_dim), dim=-1)
                fused, _ = model(gen, sem)
                loss = head(fused).float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        chosen = torch.randperm(scenes, generator=torch.Generator().manual_seed(0))[:batch]
        there = chosen.to(self.device)
        piece = host[:batch]
        moved = torch.empty_like(piece, pin_memory=pin).copy_(host[chosen])
        found = {
            "kept": timed(lambda: step(kept.index_select(0, there)), 10),
            "streamed": timed(lambda: step(moved.to(self.device, non_blocking=True)), 10),
            "upload": timed(lambda: moved.to(self.device, non_blocking=True), 10),
        }
        gigabytes = moved.numel() * 2 / 1e9
        return {
            **{f"{name}_ms": value["ms"] for name, value in found.items()},
            "samples_per_s_kept": 1e3 * batch / found["kept"]["ms"],
            "samples_per_s_streamed": 1e3 * batch / found["streamed"]["ms"],
            "sample_mb": 1e3 * gigabytes / batch,
            "upload_gb_per_s": gigabytes / found["upload"]["ms"] * 1e3,
        }


def bench(
    out: Path, *, tiny: bool, device: str, limit_s: float, compiles: bool = True
) -> dict[str, Any]:
    """Measure everything that fits the limit, the most wanted first."""
    results = Results(out, limit_s)
    bench = Bench(Sizes(tiny=tiny), device, results)
    part, sizes = results.part, bench.sizes
    part("machine", bench.machine)
    part("peaks", bench.peaks)
    part("build", bench.build)
    part("reference", bench.reference)
    part("naive", bench.naive, 40)
    part("precision_bfloat16", lambda: bench.precision("bfloat16"))
    part("eager_bfloat16", lambda: bench.eager("bfloat16"))
    part("feeding", bench.feeding, 20)
    if compiles:
        part("compiled_bfloat16", lambda: bench.compiled("bfloat16", sizes.batches), 150)
    if "best_batch" not in results.found.get("compiled_bfloat16", {}):
        bench.made = bench.encoder("bfloat16", sizes.batches[0], compiled=False)
    part("end_to_end", bench.whole)
    part("profile", bench.profile, 30)
    part("attention", bench.attention, 20)
    part("products", bench.products, 20)
    part("convolutions", bench.convolutions, 30)
    for dtype in ("float32", "tf32", "float8"):
        if device == "cuda" or dtype == "float32":
            part(f"precision_{dtype}", lambda dtype=dtype: bench.precision(dtype), 20)
            if dtype != "float8":
                part(f"eager_{dtype}", lambda dtype=dtype: bench.eager(dtype), 20)
    if device == "cuda":
        part("graphs", bench.graphs, 30)
    part("training", bench.training, 20)
    if device == "cuda":
        part("compiled_float8", lambda: bench.compiled("float8", sizes.batches[:1]), 60)
    results.keep(seconds=round(time.monotonic() - results.start, 1))
    return results.found


def test_the_script_runs_on_tiny_sizes(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    found = bench(tmp_path, tiny=True, device="cpu", limit_s=60, compiles=False)
    assert not [name for name, part in found.items() if "error" in str(part)[:200]]
    assert found["precision_float32"]["tap_relative_l2"] < 1e-5
    assert found["precision_bfloat16"]["tap_relative_l2"] < 0.05
    assert found["end_to_end"]


def run_script(measure: Callable[..., object], limit_s: float) -> None:
    """Measure as the command line says; the limit is what it is without a word."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--limit", type=float, default=limit_s)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(min(8, os.cpu_count() or 1))
    measure(given.out, tiny=given.tiny, device=given.device, limit_s=given.limit)


if __name__ == "__main__":
    run_script(bench, 300.0)
