"""One view through Wan2.1-1.3B: the released way beside ours, same weights, same pixels.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_wan.py [rows cols [bfloat16]]

The released way: the class's VAE on one-frame videos, all 30 blocks with 512 rows of text, a hook.
Ours: `WanEncoder`'s parts. Both run two blocks of the published sizes with random weights; the
seconds of 30 and of 21 blocks are those two scaled, which the table says. Float32, one view. The
same view taken whole is ours alone, at 4:3 of the same height: the released way pads or cuts it to
its own canvas. Seconds are told of the processor and of the clock; beside other work only the
former say anything. With `bfloat16` ours is timed in that as well, and its error told: for
processors that multiply it (avx512_bf16, amx_bf16).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from vega3d.pipeline.backbones.numerics import autocast
from vega3d.pipeline.backbones.tiny import seed_weights
from vega3d.pipeline.backbones.wan_blocks import FoldedBlock, distinct_rows
from vega3d.pipeline.backbones.wan_frames import FrameEncoder
from vega3d.pipeline.backbones.wan_networks import WanTransformer

DEPTH, TAP = 30, 20
ROWS = 512
REPEATS = 3


def bench(
    height: int, width: int, *, sizes: dict[str, int], base_dim: int, half: bool = False
) -> dict[str, object]:
    """Return medians of seconds, and how far the ways are apart; with `half`, bfloat16 too."""
    vae, dit = AutoencoderKLWan(base_dim=base_dim), WanTransformer3DModel(num_layers=2, **sizes)
    for number, model in enumerate((vae, dit)):
        seed_weights(model, number)
        model.requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((1, 3, height, width), generator=generator) * 2 - 1
    whole = pixels[..., : height * 4 // 3 // 16 * 16].contiguous()
    prompt = torch.randn((1, dit.config.text_dim), generator=generator)
    with torch.inference_mode():
        frames = FrameEncoder(vae)
        vaes = {
            "released": lambda: vae.encode(pixels.unsqueeze(2)).latent_dist.mode()[:, :, 0],
            "ours": lambda: frames(pixels),
            "whole": lambda: frames(whole),
        }
        blocks = both_blocks(dit, prompt, height, width, half=half)
        blocks["whole"] = both_blocks(dit, prompt, *whole.shape[2:], half=False)["ours"]
        if half:
            in_bfloat16 = FrameEncoder(vae, torch.bfloat16)
            vaes["bfloat16"] = lambda: in_bfloat16(pixels)
        timed_vaes, timed_blocks = side_by_side(vaes), side_by_side(blocks)
    found: dict[str, object] = {"whole": list(whole.shape[2:])}
    for clock in ("cpu", "wall"):
        views = {
            way: timed_vaes[way].seconds(clock)
            + timed_blocks[way].seconds(clock) * (DEPTH if way == "released" else TAP + 1) / 2
            for way in timed_vaes
        }
        found[f"{clock}_s"] = {
            "vae": {way: timed.seconds(clock) for way, timed in timed_vaes.items()},
            "two_blocks": {way: timed.seconds(clock) for way, timed in timed_blocks.items()},
            "view": views,
        }
        found[f"{clock}_ratio"] = {
            way: views["released"] / views[way] for way in views if way != "released"
        }
    for part, timed in (("vae", timed_vaes), ("blocks", timed_blocks)):
        found[f"{part}_relative_l2"] = {
            way: apart(timed[way].value, timed["released"].value)
            for way in timed
            if way not in ("released", "whole")
        }
    return found


class Timed:
    """A function's last value and the median of its seconds, by clock."""

    def __init__(self) -> None:
        self.value = torch.empty(0)
        self.times: dict[str, list[float]] = {"cpu": [], "wall": []}

    def seconds(self, clock: str) -> float:
        return statistics.median(self.times[clock])

    def call(self, function: Callable[[], torch.Tensor]) -> None:
        start, used = time.perf_counter(), time.process_time()
        self.value = function()
        self.times["cpu"].append(time.process_time() - used)
        self.times["wall"].append(time.perf_counter() - start)


def side_by_side(functions: dict[str, Callable[[], torch.Tensor]]) -> dict[str, Timed]:
    """Time functions in turns, so that whatever else runs slows all of them."""
    timed = {name: Timed() for name in functions}
    for _ in range(REPEATS):
        for name, function in functions.items():
            timed[name].call(function)
    return timed


def both_blocks(
    dit: WanTransformer3DModel, prompt: torch.Tensor, height: int, width: int, *, half: bool
) -> dict[str, Callable[[], torch.Tensor]]:
    latents = torch.randn((1, 16, 1, height // 8, width // 8))
    embedder = dit.condition_embedder
    time_row = embedder.time_embedder(embedder.timesteps_proj(torch.tensor([300.0])))
    modulation = embedder.time_proj(embedder.act_fn(time_row)).unflatten(1, (6, -1))
    rotary = dit.rope(latents)
    hidden = dit.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()
    padded = nn.functional.pad(prompt, (0, 0, 0, ROWS - len(prompt)))[None]
    text = embedder.text_embedder(padded)
    rows, counts = distinct_rows(prompt, ROWS)
    folded = [FoldedBlock(block, embedder.text_embedder(rows), counts) for block in dit.blocks]

    def released() -> torch.Tensor:
        x = hidden
        for block in dit.blocks:
            x = block(x, text, modulation, rotary)
        return x

    def through(blocks: Iterable[nn.Module]) -> torch.Tensor:
        x = hidden
        for block in blocks:
            x = block(x, modulation, rotary)
        return x

    ways = {"released": released, "ours": lambda: through(folded)}
    if half:
        ours = WanTransformer(deepcopy(dit), len(dit.blocks) - 1, "bfloat16", "cpu")
        ours.fold_prompt(prompt.numpy(), ROWS)

        def in_bfloat16() -> torch.Tensor:
            with autocast("bfloat16", "cpu"):
                return through(ours.model.blocks)

        ways["bfloat16"] = in_bfloat16
    return ways


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_the_benchmark_runs_on_tiny_sizes() -> None:
    tiny = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "text_dim": 8}
    found = bench(48, 64, sizes=tiny, base_dim=4, half=True)
    for part, most in (("vae", 3e-2), ("blocks", 1e-2)):
        apart_by_way = found[f"{part}_relative_l2"]
        assert apart_by_way["ours"] < 1e-5
        assert 0 < apart_by_way["bfloat16"] < most
    assert set(found["cpu_ratio"]) == {"ours", "whole", "bfloat16"}


if __name__ == "__main__":
    words = sys.argv[1:]
    size = [int(word) for word in words[:2]] or [480, 832]
    published = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960}
    half = "bfloat16" in words[2:]
    print(json.dumps(bench(*size, sizes=published, base_dim=96, half=half), indent=1))
