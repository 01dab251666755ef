"""One view through Wan2.1-1.3B: the released way beside ours, same weights, same pixels.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_wan.py [rows cols]

The released way: the class's VAE on one-frame videos, all 30 blocks with 512 rows of text, a hook.
Ours: `WanEncoder`'s parts. Both run two blocks of the published sizes with random weights; the
seconds of 30 and of 21 blocks are those two scaled, which the table says. Float32, one view. The
same view taken whole is ours alone, at 4:3 of the same height: the released way pads or cuts it to
its own canvas. Seconds are told of the processor and of the clock; beside other work only the
former say anything.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from vega3d.pipeline.backbones.tiny import seed_weights
from vega3d.pipeline.backbones.wan_blocks import FoldedBlock, distinct_rows
from vega3d.pipeline.backbones.wan_frames import FrameEncoder

DEPTH, TAP = 30, 20
ROWS = 512
REPEATS = 3


def bench(height: int, width: int, *, sizes: dict[str, int], base_dim: int) -> dict[str, object]:
    """Return medians of seconds, and how far the two ways are apart."""
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
        released_vae, our_vae, whole_vae = side_by_side(
            lambda: vae.encode(pixels.unsqueeze(2)).latent_dist.mode(),
            lambda: frames(pixels),
            lambda: frames(whole),
        )
        of_whole = both_blocks(dit, prompt, *whole.shape[2:])[1]
        blocks = both_blocks(dit, prompt, height, width)
        released_blocks, our_blocks, whole_blocks = side_by_side(*blocks, of_whole)
    found: dict[str, object] = {}
    for clock in ("cpu", "wall"):
        seconds = {
            "vae_released": released_vae.seconds(clock),
            "vae_ours": our_vae.seconds(clock),
            "vae_whole": whole_vae.seconds(clock),
            "two_blocks_released": released_blocks.seconds(clock),
            "two_blocks_ours": our_blocks.seconds(clock),
            "two_blocks_whole": whole_blocks.seconds(clock),
        }
        released = seconds["vae_released"] + seconds["two_blocks_released"] * DEPTH / 2
        ours = seconds["vae_ours"] + seconds["two_blocks_ours"] * (TAP + 1) / 2
        at_4_to_3 = seconds["vae_whole"] + seconds["two_blocks_whole"] * (TAP + 1) / 2
        seconds |= {"view_released": released, "view_ours": ours, "view_whole": at_4_to_3}
        found[f"{clock}_s"] = seconds
        found[f"{clock}_ratio"] = released / ours
        found[f"{clock}_ratio_whole"] = released / at_4_to_3
    return found | {
        "whole": list(whole.shape[2:]),
        "vae_relative_l2": apart(our_vae.value, released_vae.value[:, :, 0]),
        "blocks_relative_l2": apart(our_blocks.value, released_blocks.value),
    }


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


def side_by_side(*functions: Callable[[], torch.Tensor]) -> list[Timed]:
    """Time functions in turns, so that whatever else runs slows all of them."""
    timed = [Timed() for _ in functions]
    for _ in range(REPEATS):
        for function, kept in zip(functions, timed, strict=True):
            kept.call(function)
    return timed


def both_blocks(
    dit: WanTransformer3DModel, prompt: torch.Tensor, height: int, width: int
) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
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

    def ours() -> torch.Tensor:
        x = hidden
        for block in folded:
            x = block(x, modulation, rotary)
        return x

    return released, ours


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_the_benchmark_runs_on_tiny_sizes() -> None:
    tiny = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "text_dim": 8}
    found = bench(48, 64, sizes=tiny, base_dim=4)
    assert found["vae_relative_l2"] < 1e-5
    assert found["blocks_relative_l2"] < 1e-5
    assert found["cpu_ratio_whole"] > 0


if __name__ == "__main__":
    size = [int(word) for word in sys.argv[1:3]] or [480, 832]
    published = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960}
    print(json.dumps(bench(*size, sizes=published, base_dim=96), indent=1))
