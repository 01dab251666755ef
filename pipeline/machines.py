"""How fast machines are, as stated or measured: what a plan goes by where nobody has measured.

Standard library only. One table was measured: Wan2.1-1.3B at 832x480 on an H200
(tests/benchmarks/README.md, 2026-11-26). Other GPUs are taken to reach the same share of their
published dense peak, which is an assumption and is told as one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Machine = Literal["H200", "H100", "A100", "L40S", "L4", "cpu"]

PUBLISHED_TFLOPS: Mapping[str, Mapping[str, float]] = {
    "H200": {"bfloat16": 989, "tf32": 494, "float32": 67, "float8": 1979},
    "H100": {"bfloat16": 989, "tf32": 494, "float32": 67, "float8": 1979},
    "A100": {"bfloat16": 312, "tf32": 156, "float32": 19.5},
    "L40S": {"bfloat16": 362, "tf32": 183, "float32": 91.6, "float8": 733},
    "L4": {"bfloat16": 121, "tf32": 60, "float32": 30.3, "float8": 242},
}
"""Dense peaks, TFLOP/s. Source: NVIDIA's data sheets, SXM where there are several."""

MEASURED_ON_H200: Mapping[str, float] = {
    "bfloat16": 441.6,  # VAE 2.76 and DiT 5.86 ms of 0.914 and 2.893 TFLOP, compiled
    "tf32": 137.3,  # 8.19 and 19.5 ms, eager
    "float32": 36.6,  # 39.3 and 64.7 ms, eager
    "float8": 470.1,  # 2.82 and 5.28 ms, compiled
}
"""TFLOP/s of VAE and DiT together."""

CPU_TFLOPS_PER_CORE: Mapping[str, float] = {"float32": 0.085, "bfloat16": 0.14}
"""Of one core of an AMD EPYC with AVX-512; both stages ran at 0.082 to 0.088 in float32."""


@dataclass(frozen=True, slots=True)
class ViewCost:
    """CPU seconds of a ScanNet view (1296x968 JPEG, 640x480 PNG) on one such core."""

    decode_s: float
    """Reading, decoding and hashing it."""

    hash_s: float
    """Of these: sha256 of a scene's content, which one thread takes; others decode."""

    geometry_s: float
    """Where its tokens are, preview and noise."""

    resize_and_pool_s: float
    """... and what a GPU would do: bringing it to the canvas, pooling its tokens."""


WHOLE = ViewCost(decode_s=0.0085, hash_s=0.0028, geometry_s=0.0057, resize_and_pool_s=0.0062)
"""Measured on 2026-11-22, and divided by how many times faster each step has become, which was
measured side by side on another machine (tests/benchmarks/README.md)."""

HALF = ViewCost(decode_s=0.0056, hash_s=0.0012, geometry_s=0.0041, resize_and_pool_s=0.0028)
"""Its JPEG decoded at half of its sides: the share of each step that is left, measured side by side
on 2026-11-27 (tests/benchmarks/README.md). At 1/4 and 1/8 it is less; a plan takes this for them.
"""

STORE_S = 0.0041
"""Writing 602 kB of features."""

DECODE_THREADS = 4
"""`scenes/decoding.py`'s, where there are as many cores."""

GEOMETRY_THREADS = 2
"""Tokens are placed in one thread and previews made in another, of two parts at a time at most."""
STORED_BYTES = 14 * 14 * 1536 * 2

COMPILE_S = 25.0
"""First run on a GPU; later ones find the code in VEGA3D_CACHE."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Seconds that one worker is busy with a view, by stage."""

    model_s: float
    decode_s: float
    geometry_s: float
    store_s: float
    overlaps: bool
    """Whether the stages run side by side; on a CPU one set of cores does all of them."""

    @property
    def stages(self) -> dict[str, float]:
        """Each stage by name."""
        return {
            "model": self.model_s,
            "decode": self.decode_s,
            "geometry": self.geometry_s,
            "store": self.store_s,
        }

    @property
    def slowest(self) -> str:
        """The stage that the others wait for, or that takes most of the cores."""
        return max(self.stages, key=lambda name: self.stages[name])

    @property
    def seconds_per_view(self) -> float:
        """Of a worker."""
        return self.stages[self.slowest] if self.overlaps else sum(self.stages.values())


def stated_tflops(machine: str, dtype: str, cores: int) -> float:
    """Return what one worker keeps up: a GPU, or so many cores."""
    if machine == "cpu":
        return cores * CPU_TFLOPS_PER_CORE.get(dtype, CPU_TFLOPS_PER_CORE["float32"])
    peaks = PUBLISHED_TFLOPS[machine]
    dtype = dtype if dtype in peaks else "bfloat16"  # what the machine lacks runs in that
    share = MEASURED_ON_H200[dtype] / PUBLISHED_TFLOPS["H200"][dtype]
    return peaks[dtype] * share


def pace(
    flops_per_view: float,
    tflops: float,
    stored_bytes_per_view: float,
    cpu: bool,
    view: ViewCost = WHOLE,
) -> Pace:
    """Return what a view keeps each stage of one worker busy for.

    Args:
        flops_per_view: Of the model.
        tflops: What the worker keeps up.
        stored_bytes_per_view: Of features.
        cpu: The model runs on the cores that also read and write: nothing overlaps there.
        view: What a view takes beside the model.
    """
    model_s = flops_per_view / (tflops * 1e12)
    store_s = STORE_S * stored_bytes_per_view / STORED_BYTES
    if cpu:
        return Pace(
            model_s=model_s,
            decode_s=view.decode_s,
            geometry_s=view.geometry_s + view.resize_and_pool_s,
            store_s=store_s,
            overlaps=False,
        )
    return Pace(
        model_s=model_s,
        decode_s=view.hash_s + (view.decode_s - view.hash_s) / DECODE_THREADS,
        geometry_s=view.geometry_s / GEOMETRY_THREADS,
        store_s=store_s,
        overlaps=True,
    )


def cpu_cores(stored_bytes_per_view: float, views_per_s: float, view: ViewCost = WHOLE) -> float:
    """Return how many cores a GPU keeps busy at so many views a second."""
    store_s = STORE_S * stored_bytes_per_view / STORED_BYTES
    return views_per_s * (view.decode_s + view.geometry_s + store_s)


def gpu_memory_bytes(parameters: int, dtype: str, batch_size: int, canvas_px: int) -> int:
    """Return what a GPU must have: weights, and what a batch passes through the VAE.

    A batch took 0.44 GB a view of 832x480 in bfloat16 (8.8 GB at 16, 5.3 GB at 8).
    """
    if not parameters:
        return 0
    wide = 1 if dtype in ("bfloat16", "float8") else 2
    return int(parameters * 2 * wide + 0.44e9 * wide * batch_size * canvas_px / (832 * 480))
