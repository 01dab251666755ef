"""How many views a forward pass takes: found by a search when a store is made, and kept in it.

The batch size changes last bits, so a store has one. The search runs in a process of its own: what
it takes of a GPU is given back.
"""

import json
import logging
import os
import pickle
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vega3d.pipeline.backbones.numerics import Numerics, apply_numerics, gpu_is_here
from vega3d.pipeline.errors import CheckpointError, UsageError
from vega3d.pipeline.limits import SCANNET_COLOR
from vega3d.pipeline.prepared import PreparedModel

if TYPE_CHECKING:
    from vega3d.pipeline.backbones.backbone import Backbone

SIZES = (1, 2, 4, 8, 16)
"""Those that are tried; a part of a scene has 16 views (`features.py`)."""

MEMORY_SHARE = 0.8
"""Of what is free when the search begins: sizes that take more are none."""

WORTH = 0.03
"""A larger batch must be faster by so much: it takes more memory, and wastes more on odd views."""

UNSEARCHED = 8
"""Where the device is not here. The best of an H200 at 832x480 were 8 and 16, within 1 %."""

_VIEWS = SIZES[-1]
"""Shown at every size: a size decides how many views, or timesteps of few, go together."""

_REPEATS = {"cuda": 3, "cpu": 1}

_TOO_LARGE = (
    "the model and one view are more than this device's memory; take a smaller --resolution, "
    "--dtype bfloat16 or another device"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass takes."""

    seconds_per_view: float
    memory_bytes: int
    """Most that was in use at once."""


def with_batch_size(numerics: Numerics, model: PreparedModel, share: float = 1.0) -> Numerics:
    """Return the numerics with a batch size: the one that is set, or the best of this device.

    Args:
        numerics: Where its batch size is 0 it is searched.
        model: What is to run.
        share: Of the device's memory, where others use it too.

    Raises:
        UsageError: The model cannot run here, or not even one view at a time.
    """
    if numerics.batch_size:
        return numerics
    if numerics.device == "cuda" and not gpu_is_here():
        _log.info("no GPU here to search the batch size on: %d", UNSEARCHED)
        return replace(numerics, batch_size=UNSEARCHED)
    # Not multiprocessing's: that runs a script anew which has no guard around its main part.
    command = [sys.executable, "-P", "-c", f"from {__name__} import _answer; _answer()"]
    asked = pickle.dumps((model, numerics, share))
    done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise UsageError(
            f"the search for a batch size ended with exit code {done.returncode}, for what it "
            "says above; --batch-size takes one without a search"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    if error := found["error"]:
        raise UsageError(error)
    _log.info("batch size %d is the best of this device", found["batch_size"])
    return replace(numerics, batch_size=found["batch_size"])


def search_here(model: PreparedModel, numerics: Numerics, share: float = 1.0) -> int:
    """Return the best batch size, measured on this device in this process."""
    import torch

    try:
        free_bytes, measure = _measuring(model, numerics)
    except torch.OutOfMemoryError as error:
        raise UsageError(_TOO_LARGE) from error
    return best_size(measure, int(MEMORY_SHARE * share * free_bytes))


def best_size(measure: Callable[[int], Pass], limit_bytes: int) -> int:
    """Return the smallest batch that is about as fast as any that fits.

    Args:
        measure: Runs batches of a size; raises MemoryError where it does not fit.
        limit_bytes: Memory that a pass may take.

    Raises:
        UsageError: Not even one view fits.
    """
    best, fastest = SIZES[0], float("inf")
    for size in SIZES:
        try:
            found = measure(size)
        except MemoryError as error:
            if size == SIZES[0]:
                raise UsageError(_TOO_LARGE) from error
            break
        if found.memory_bytes > limit_bytes and size > SIZES[0]:
            break
        _log.info("batch of %d: %.1f ms a view", size, 1000 * found.seconds_per_view)
        if found.seconds_per_view < fastest * (1 - WORTH):
            best, fastest = size, found.seconds_per_view
    return best


def _answer() -> None:
    """Print what the search finds for what comes on stdin, from `with_batch_size`."""
    model, numerics, share = pickle.loads(sys.stdin.buffer.read())
    found: dict[str, Any] = {"batch_size": 0, "error": ""}
    try:
        found["batch_size"] = search_here(model, numerics, share)
    except (UsageError, CheckpointError) as error:
        found["error"] = str(error)
    sys.stdout.write(f"\n{json.dumps(found)}\n")


def _measuring(model: PreparedModel, numerics: Numerics) -> tuple[int, Callable[[int], Pass]]:
    """Return how much memory is free, and what measures a batch of a size."""
    import torch

    from vega3d.pipeline.backbones.loading import load_from_config

    numerics = replace(numerics, batch_size=SIZES[0])
    apply_numerics(numerics)
    on_gpu = numerics.device == "cuda"
    free_bytes = torch.cuda.mem_get_info()[0] if on_gpu else _free_memory_bytes()
    backbone = load_from_config(model.config.backbone, numerics, model.prompt)
    views = np.random.default_rng(0).integers(0, 256, (_VIEWS, *SCANNET_COLOR, 3), dtype=np.uint8)
    names = [str(index) for index in range(_VIEWS)]

    def once(sized: "Backbone") -> float:
        start = time.perf_counter()
        sized.encode_pooled(views, model.config.grid, scene_id="", view_ids=names)
        return time.perf_counter() - start

    def measure(size: int) -> Pass:
        sized = backbone.with_batch_size(size)
        try:
            once(sized)  # compiles, and fills what allocators keep
            repeats = range(_REPEATS[numerics.device])
            seconds = statistics.median(once(sized) for _ in repeats) / _VIEWS
        except torch.OutOfMemoryError as error:
            raise MemoryError from error
        used = torch.cuda.max_memory_allocated() if on_gpu else _peak_bytes()
        return Pass(seconds, used)

    return free_bytes, measure


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _free_memory_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
