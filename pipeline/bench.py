"""How fast one view is on this machine: the number that `plan --tflops` wants."""

import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.pipeline.backbones.checkpoints import model_facts
from vega3d.pipeline.backbones.loading import load_from_config
from vega3d.pipeline.backbones.numerics import Numerics, apply_numerics, environment
from vega3d.pipeline.backbones.settings import size_text
from vega3d.pipeline.backbones.tiny import write_random_wan, write_tiny_wan
from vega3d.pipeline.backbones.wan import WanConfig

SIZE = (480, 832)
"""Rows and columns of the view, px: the paper's smaller size."""


def bench(numerics: Numerics, *, full: bool, repeats: int) -> dict[str, Any]:
    """Time one view through the default config, random weights.

    Args:
        numerics: Threads and device.
        full: The published sizes of Wan2.1-T2V-1.3B (8 GB on disk for the time being, and about
            as much memory in float32) instead of the tiny checkpoint's.
        repeats: Passes measured after one warm-up.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "wan"
        # In a process of its own, so that making the weights does not count as peak memory.
        maker = multiprocessing.get_context("spawn").Process(
            target=write_random_wan if full else write_tiny_wan, args=(model,)
        )
        maker.start()
        maker.join()
        if maker.exitcode != 0:
            raise OSError(f"writing the checkpoint to {folder} failed; is there room for 8 GB?")
        return _measure(model, numerics, repeats)


def _measure(model: Path, numerics: Numerics, repeats: int) -> dict[str, Any]:
    config = WanConfig(model=str(model), resolution=SIZE)
    apply_numerics(numerics)
    facts = model_facts(config)
    start = time.monotonic()
    width = int(facts.configs["transformer"]["text_dim"])
    prompt = np.random.default_rng(0).standard_normal((1, width), dtype=np.float32)
    backbone = load_from_config(config, numerics, config.prompt(prompt))
    load_s = time.monotonic() - start
    rgb = np.random.default_rng(1).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
    seconds = []
    for _ in range(repeats + 1):
        start = time.monotonic()
        features = backbone.encode(rgb, scene_id="bench", view_ids=["0"])
        seconds.append(time.monotonic() - start)
    median = statistics.median(seconds[1:])
    tflop = config.flops_per_view(facts, SIZE, 1) / 1e12
    return {
        "resolution": size_text(SIZE),
        "taps": {tap: list(values.shape) for tap, values in features.items()},
        "load_s": load_s,
        "seconds_per_view": median,
        "spread_s": [min(seconds[1:]), max(seconds[1:])],
        "tflop_per_view": tflop,
        "tflops": tflop / median,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "environment": environment(numerics.device),
    }
