"""Configs of stage 1: what decides the stored bytes, and how a run is carried out.

Standard library only, so that a command line stays light.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.registry import (
    DEFAULT,
    backbone_names,
    family,
    preset,
    preset_names,
    unchanged,
)
from vega3d.pipeline.backbones.settings import Fit, check_choices, size_text
from vega3d.pipeline.machines import Machine
from vega3d.pipeline.scenes.settings import ReadConfig, Sampling
from vega3d.pipeline.settings import Choice

StoreDtype = Literal["float16", "float32", "int8"]
JpegSize = Literal["whole", "scaled"]


def _names() -> tuple[str, ...]:
    return (*backbone_names(), *preset_names())


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig(ReadConfig):
    """Decides the bytes of a feature store: change a field and it is another store."""

    backbone: BackboneConfig = field(
        default_factory=lambda: preset(DEFAULT),
        metadata={"choice": Choice(names=_names, make=unchanged), "alias": "--preset"},
    )
    """Which encoder, or a named config of one; its own settings are options too."""

    grid: tuple[int, int] = (14, 14)
    """Cells of the common token grid over the whole image, rows first in Python."""

    store_dtype: StoreDtype = "float16"
    """Type of the stored features; int8: half the bytes of float16, one scale a token and its
    largest channels apart."""

    num_views: int = field(default=32, metadata={"option": "--views"})
    """Views kept of a scene at most; 0 keeps all."""

    sampling: Sampling = "uniform"
    """How they are chosen: evenly by index, or greedily by the 0.1 m voxels they cover."""

    jpeg: JpegSize = "whole"
    """JPEGs decoded whole, or, where the encoder's input is no larger, at 1/2, 1/4 or 1/8 of their
    sides: three quarters of the CPU time a view, other pixels; the store's cameras are of that
    size."""

    scenes_per_shard: int = field(default=8, metadata={"usual": "8 on a GPU, 1 on a CPU"})
    """Scenes of one unit: one file per array, one commit, one retry."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        if min(self.grid) < 1:
            raise ValueError(
                f"grid must have a column and a row at least, got {size_text(self.grid)}"
            )
        if self.num_views < 0:
            raise ValueError(f"num_views must be >= 0 (0 keeps all), got {self.num_views}")
        if self.scenes_per_shard < 1:
            raise ValueError(f"scenes_per_shard must be >= 1, got {self.scenes_per_shard}")
        ReadConfig.__post_init__(self)

    def stored(self) -> dict[str, Any]:
        """Return the config as a store keeps it: the encoder's settings and ours, side by side.

        Settings that came later are left out at their usual value: stores made before them go on.
        """
        common = {
            name: getattr(self, name)
            for name in _common()
            if name not in _LATER or getattr(self, name) != _LATER[name]
        }
        return {"backbone": self.backbone.name, **self.backbone.stored(), **common}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "ExtractConfig":
        """Rebuild the config that a store was made with."""
        common = {name: stored[name] for name in _common() if name in stored or name not in _LATER}
        backbone = family(stored["backbone"]).from_stored(stored)
        return cls(backbone=backbone, **{**common, "grid": tuple(stored["grid"])})


_LATER = {"bad_views": "drop", "poses": "opencv", "depth_scale": 1.0, "jpeg": "whole"}
"""Fields that stores of the first formats lack, and what they mean there."""


def _common() -> list[str]:
    return [setting.name for setting in fields(ExtractConfig) if setting.name != "backbone"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """How a run is carried out; changes no stored byte."""

    runner: Literal["inline", "ray"] = "inline"
    """In this process, or on Ray."""

    address: str = "local"
    """Ray only: `local` starts one here, `auto` finds the cluster of this node, `ray://host:port`."""

    workers: int = 1
    """Ray only: actors, each with one copy of the model."""

    gpus_per_worker: float = field(default=0.0, metadata={"usual": "1 on a GPU, 0 on a CPU"})
    """Ray only: GPUs an actor reserves; a fraction lets actors share one."""

    cpus_per_worker: float = 1.0
    """Ray only: CPU cores an actor reserves; a fraction is allowed."""

    attempts: int = 3
    """Tries of a unit. One whose worker keeps dying is recorded as failed; one whose disk or server
    does not answer is left for the next run."""

    unit_timeout_s: float = 3600.0
    """Longest silence, s: a scene that shows none for so long is given up, and after so long
    without any success the rest is left for the next run. On Ray a unit is also taken from its
    worker."""

    wait_s: float = 1800.0
    """Ray only: where no worker finds a place for so long, the run ends; meanwhile it says what it
    waits for."""

    wheel: str = ""
    """Ray only: a wheel of vega3d that is shipped to the cluster's nodes; "" where they have it."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.workers < 1 or self.attempts < 1:
            raise ValueError(
                f"workers and attempts must be >= 1, got {self.workers} and {self.attempts}"
            )
        if not (self.cpus_per_worker >= 0 and self.gpus_per_worker >= 0):
            raise ValueError("cpus_per_worker and gpus_per_worker must not be negative")
        for name in ("unit_timeout_s", "wait_s"):
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
                raise ValueError(f"{name} must be positive, got {value}")

    @property
    def gpu_share(self) -> float:
        """Part of one GPU that a worker has for itself."""
        return min(1.0, self.gpus_per_worker or 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What an estimate assumes of machines and prices."""

    workers: int = 1
    """GPUs, or CPU workers."""

    gpu: Machine = field(default="H100", metadata={"usual": "what is here"})
    """What a worker is: one of these GPUs, or `cpu` with --threads cores."""

    tflops_per_worker: float = field(
        default=441.6, metadata={"option": "--tflops", "usual": "what --gpu reaches at --dtype"}
    )
    """TFLOP/s that a worker keeps up, all of the model together. An H200 was measured at 442 in
    bfloat16, 137 in tf32, 37 in float32; other GPUs are taken to reach the same share of their
    published peak; `bench` measures yours."""

    price_per_worker_hour: float = field(default=3.0, metadata={"option": "--price-per-hour"})
    """Of one worker, in `currency`."""

    price_per_gb_month: float = 0.023
    """Of a store's room, in `currency`."""

    currency: str = "USD"
    """Of the prices."""

    read_gb_per_s: float = 1.0
    """What a trainer reads from the store."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if min(self.tflops_per_worker, self.workers, self.read_gb_per_s) <= 0:
            raise ValueError("tflops_per_worker, workers and read_gb_per_s must be positive")
        if min(self.price_per_worker_hour, self.price_per_gb_month) < 0:
            raise ValueError("price_per_worker_hour and price_per_gb_month must be >= 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackConfig(ReadConfig):
    """What is packed, and how it is understood."""

    scenes_per_tar: int = 8
    """Scenes of one tar."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.scenes_per_tar < 1:
            raise ValueError(f"scenes_per_tar must be >= 1, got {self.scenes_per_tar}")
        ReadConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig(ReadConfig):
    """What is looked at of scenes, and how it is to be understood."""

    num_views: int = field(default=32, metadata={"option": "--views"})
    """Views of a scene at most; 0 takes all."""

    num_scenes: int = 0
    """Scenes at most, spread evenly over all; 0 takes all."""

    sampling: Sampling = "uniform"
    """How views are chosen."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.num_views < 0 or self.num_scenes < 0:
            raise ValueError("num_views and num_scenes must be >= 0 (0 takes all)")
        ReadConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheConfig:
    """What a released per-scene cache does not say of itself."""

    tap: str = "features"
    """What its one tap is called."""

    cached_fit: Fit = "crop"
    """How images reached its tokens; SEVA's and Vmem's are a centre crop. With --scenes they are
    brought to the grid over the whole image."""

    cond_half: bool = False
    """Keep the second half of the rows: older caches hold an unconditional half before it."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        if not self.tap.isidentifier():
            raise ValueError(f"tap must be a name of letters, digits and _, got {self.tap!r}")
