"""How the cost of extraction grows, beside the count of operations: a small Wan on one core.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_cost.py

One setting differs from the first row's at a time. `flop` is what `plan` counts, `time` what the
encoder takes for a scene (CPU, the less of two passes), both as times the first row. The model has
Wan2.1's topology with 256 channels, 8 blocks and a VAE of 16 channels, random weights, float32.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from vega3d.pipeline.backbones.checkpoints import model_facts
from vega3d.pipeline.backbones.loading import load_from_config
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.tiny import seed_weights
from vega3d.pipeline.backbones.wan import WanConfig


@dataclass(frozen=True)
class Case:
    """One row."""

    told: str
    views: int = 8
    settings: dict[str, Any] = field(default_factory=dict)


def cases(base: dict[str, Any], views: int) -> list[Case]:
    """Return the rows, the one that all are compared with first."""
    rows, cols = base["resolution"]
    found = [Case(f"{views} views, {cols}x{rows}, block {base['blocks'][0]}, k 300, frame", views)]
    found += [Case(f"{count} views", count) for count in (views // 4, views // 2, 2 * views)]
    for times in (0.5, 1.5, 2):
        size = int(rows * times) // 16 * 16, int(cols * times) // 16 * 16
        found.append(Case(f"{size[1]}x{size[0]}", views, {"resolution": size}))
    found += [Case(f"block {block}", views, {"blocks": (block,)}) for block in (1, 7)]
    found.append(Case("blocks 1, 3, 5", views, {"blocks": (1, 3, 5)}))
    steps = (100, 300, 500, 700)
    found += [Case(f"{n} timesteps", views, {"timesteps": steps[:n]}) for n in (2, 4)]
    found.append(Case("2 noise samples", views, {"noise_samples": 2}))
    found += [Case(f"context {name}", views, {"context": name}) for name in ("stack", "clip")]
    return found


def write_model(folder: Path, width: int, base_dim: int) -> None:
    """Write the model, and no text encoder."""
    sizes = {"num_attention_heads": 4, "attention_head_dim": width // 4, "ffn_dim": 4 * width}
    dit = WanTransformer3DModel(num_layers=8, text_dim=32, freq_dim=32, **sizes)
    vae = AutoencoderKLWan(base_dim=base_dim)
    for number, (name, model) in enumerate({"transformer": dit, "vae": vae}.items()):
        seed_weights(model, number)
        model.save_pretrained(folder / name)


def measure(
    folder: Path,
    resolution: tuple[int, int],
    views: int,
    repeats: int,
    of: Callable[[Case], bool] = lambda case: True,
) -> Iterator[tuple[str, float, float]]:
    """Yield what each row is, its operations and its seconds."""
    rng = np.random.default_rng(0)
    prompt = {"prompt_embeds": rng.standard_normal((1, 32)).astype(np.float32)}
    base = {"model": str(folder), "resolution": resolution, "blocks": (5,), "fit": "stretch"}
    for case in filter(of, cases(base, views)):
        config = WanConfig(**{**base, **case.settings})
        backbone = load_from_config(config, Numerics(batch_size=4, threads=1), prompt)
        rgb = rng.integers(0, 256, (case.views, *resolution, 3), dtype=np.uint8)
        names = [str(view) for view in range(case.views)]
        times = []
        for _ in range(repeats + 1):
            start = time.process_time()  # one thread: others' work is not counted
            backbone.encode(rgb, scene_id="s", view_ids=names)
            times.append(time.process_time() - start)
        canvas = backbone.canvas(*resolution)
        flops = config.flops_per_view(model_facts(config), canvas, case.views) * case.views
        yield case.told, flops, min(times)


def table(found: Iterable[tuple[str, float, float]]) -> Iterator[str]:
    """Yield the rows as Markdown."""
    yield from (
        "| | GFLOP | s | GFLOP/s | flop, times | time, times |",
        "|---|---|---|---|---|---|",
    )
    first_flops = first_s = 0.0
    for told, flops, seconds in found:
        first_flops, first_s = first_flops or flops, first_s or seconds
        numbers = f"{flops / 1e9:.1f} | {seconds:.3f} | {flops / seconds / 1e9:.0f}"
        yield f"| {told} | {numbers} | {flops / first_flops:.2f} | {seconds / first_s:.2f} |"


def test_the_benchmark_runs_on_tiny_sizes(tmp_path: Path) -> None:
    write_model(tmp_path, 32, 4)
    few = {"4 views, 48x32, block 5, k 300, frame", "2 views", "context clip"}
    found = [*measure(tmp_path, (32, 48), 4, 0, lambda case: case.told in few)]
    flops = {told: flops for told, flops, _ in found}
    base = next(iter(flops.values()))
    assert flops["2 views"] * 2 == pytest.approx(base)
    assert len([*table(found)]) == len(few) + 2


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name), 256, 16)
        for line in table(measure(Path(name), (96, 160), 8, 1)):
            print(line, flush=True)
