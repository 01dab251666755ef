"""Configs of stage 1: what decides the stored bytes, and how a run is carried out.

Standard library only, so that a command line stays light.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.registry import DEFAULT, family, preset
from vega3d.pipeline.backbones.settings import check_choices

StoreDtype = Literal["float16", "float32"]
Sampling = Literal["uniform", "coverage"]
BadViews = Literal["drop", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    """Decides the bytes of a feature store: change a field and it is another store."""

    backbone: BackboneConfig = field(default_factory=lambda: preset(DEFAULT))
    """Which encoder, and its own settings."""

    grid: tuple[int, int] = (14, 14)
    """Rows and columns of the common token grid, over the whole image."""

    store_dtype: StoreDtype = "float16"
    """Type of the stored features."""

    num_views: int = 32
    """Views kept of a scene at most; 0 keeps all."""

    sampling: Sampling = "uniform"
    """How they are chosen: evenly by index, or greedily by the 0.1 m voxels they cover."""

    bad_views: BadViews = "drop"
    """Views with a damaged or missing file or a camera that cannot be true: drop leaves them out
    and fails a scene where more than half are bad, fail fails a scene with any."""

    scenes_per_shard: int = 8
    """Scenes of one unit: one file per array, one commit, one retry. 1 on a slow CPU."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_choices(self)
        if min(self.grid) < 1:
            raise ValueError(f"grid must have at least one row and column, got {self.grid}")
        if self.num_views < 0:
            raise ValueError(f"views must be >= 0 (0 keeps all), got {self.num_views}")
        if self.scenes_per_shard < 1:
            raise ValueError(f"scenes_per_shard must be >= 1, got {self.scenes_per_shard}")

    def stored(self) -> dict[str, Any]:
        """Return the config as a store keeps it: the encoder's settings and ours, side by side.

        `bad_views` is left out where it drops: stores made before it had a name go on.
        """
        common = {name: getattr(self, name) for name in _common()}
        if self.bad_views == "drop":
            del common["bad_views"]
        return {"backbone": self.backbone.name, **self.backbone.stored(), **common}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "ExtractConfig":
        """Rebuild the config that a store was made with."""
        common = {name: stored[name] for name in _common() if name in stored or name != "bad_views"}
        backbone = family(stored["backbone"]).from_stored(stored)
        return cls(backbone=backbone, **{**common, "grid": tuple(stored["grid"])})


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

    gpus_per_worker: float = 0.0
    """Ray only: GPUs an actor reserves; a fraction lets actors share one."""

    cpus_per_worker: float = 1.0
    """Ray only: CPU cores an actor reserves; a fraction is allowed."""

    attempts: int = 3
    """Tries of a unit whose worker dies or hangs before it is recorded as failed."""

    unit_timeout_s: float = 3600.0
    """Ray only: a unit that shows no progress for so long is taken from its worker."""

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
        if not (math.isfinite(self.unit_timeout_s) and self.unit_timeout_s > 0):
            raise ValueError(f"unit_timeout_s must be positive, got {self.unit_timeout_s}")
