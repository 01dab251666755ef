"""Configs of stage 1: what decides the stored bytes, and how a run is carried out.

Standard library only, so that a command line stays light.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

BackboneName = Literal["wan2.1-t2v", "siglip"]
Fit = Literal["pad", "crop", "stretch"]
Context = Literal["frame", "clip", "stack"]
Resolution = tuple[int, int] | Literal["auto", "native"]

Recipe = Literal["vega3d", "reference"]
Dtype = Literal["float32", "bfloat16"]
StoreDtype = Literal["float16", "float32"]
Sampling = Literal["uniform", "coverage"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "backbone": get_args(BackboneName),
    "fit": get_args(Fit),
    "context": get_args(Context),
    "recipe": get_args(Recipe),
    "dtype": get_args(Dtype),
    "store_dtype": get_args(StoreDtype),
    "sampling": get_args(Sampling),
}

DEFAULT_MODELS: dict[str, str] = {
    "wan2.1-t2v": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "siglip": "google/siglip-so400m-patch14-384",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    """Decides the bytes of a feature store: change a field and it is another store."""

    backbone: BackboneName = "wan2.1-t2v"
    """Which encoder: the video generator (the prior) or SigLIP (the semantic half)."""

    model: str = DEFAULT_MODELS["wan2.1-t2v"]
    """Hub id, or a folder in the same layout. Its weights' hash, not its name, is in the digest."""

    blocks: tuple[int, ...] = (20,)
    """Blocks whose OUTPUT is kept, from 0; negative counts from the end (-1 is the last)."""

    timesteps: tuple[int, ...] = (300,)
    """Flow-matching steps k in 0..1000; sigma = k / 1000, and 0 is the clean latent. Wan only."""

    resolution: Resolution = (480, 640)
    """Rows and columns of the backbone's input, px; `auto` keeps each image's aspect at about the
    token count of 480x832, `native` is the checkpoint's own size (SigLIP)."""

    fit: Fit = "pad"
    """How an image of another aspect gets there: pad (all of it is seen), crop, stretch."""

    context: Context = "frame"
    """What the generator sees together: each view alone, all as one video (`clip`), or all on the
    time axis with a latent of their own (`stack`). Wan only."""

    recipe: Recipe = "vega3d"
    """`reference` repeats the released pipeline step by step, its squash and crop included."""

    dtype: Dtype = "float32"
    """Precision of the matrix products; norms, modulation and the residual stay float32."""

    noise_seed: int = 0
    """Seed of the noise; Wan only."""

    noise_samples: int = 1
    """Independent noise draws a view, each its own tap; Wan only."""

    grid: tuple[int, int] = (14, 14)
    """Rows and columns of the common token grid, over the whole image."""

    store_dtype: StoreDtype = "float16"
    """Type of the stored features."""

    num_views: int = 32
    """Views kept of a scene at most; 0 keeps all."""

    sampling: Sampling = "uniform"
    """How they are chosen: evenly by index, or greedily by the 0.1 m voxels they cover."""

    scenes_per_shard: int = 8
    """Scenes of one unit: one file per array, one commit, one retry. 1 on a slow CPU."""

    def __post_init__(self) -> None:
        """Check every field once."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        if not isinstance(self.resolution, tuple) and self.resolution not in ("auto", "native"):
            raise ValueError(
                f"resolution must be rows, columns, or auto or native, got {self.resolution!r}"
            )
        if not self.blocks or len(set(self.blocks)) != len(self.blocks):
            raise ValueError(f"blocks must be one or more different indices, got {self.blocks}")
        if bad := [k for k in self.timesteps if not 0 <= k <= 1000]:
            raise ValueError(f"timesteps must lie in 0..1000, got {bad}; sigma 0.3 is timestep 300")
        if len(set(self.timesteps)) != len(self.timesteps):
            raise ValueError(f"timesteps must differ from one another, got {self.timesteps}")
        if self.backbone == "wan2.1-t2v":
            self._check_wan()
        elif self.timesteps or self.context != "frame" or self.noise_samples != 1:
            raise ValueError(
                "siglip is no diffusion model: it takes no timesteps, contexts or noise samples; "
                "leave these settings at the siglip preset's"
            )
        if isinstance(self.resolution, tuple) and min(self.resolution) < 1:
            raise ValueError(f"resolution must be positive rows, columns, got {self.resolution}")
        if min(self.grid) < 1:
            raise ValueError(f"grid must have at least one row and column, got {self.grid}")
        if self.noise_samples < 1 or not 0 <= self.noise_seed < 2**63:
            raise ValueError(
                f"noise_samples must be >= 1 and noise_seed in 0..2**63-1, "
                f"got {self.noise_samples} and {self.noise_seed}"
            )
        if self.num_views < 0:
            raise ValueError(f"views must be >= 0 (0 keeps all), got {self.num_views}")
        if self.scenes_per_shard < 1:
            raise ValueError(f"scenes_per_shard must be >= 1, got {self.scenes_per_shard}")

    def _check_wan(self) -> None:
        if not self.timesteps:
            raise ValueError("wan2.1-t2v needs at least one timestep; the paper's is 300")
        if self.resolution == "native":
            raise ValueError("wan2.1-t2v has no native resolution; give rows,columns or auto")
        if isinstance(self.resolution, tuple) and any(side % 16 for side in self.resolution):
            raise ValueError(
                f"resolution must be multiples of 16 (VAE 8 x patch 2), got {self.resolution}; "
                f"nearest is {tuple(max(16, round(side / 16) * 16) for side in self.resolution)}"
            )
        if self.recipe == "reference" and (
            self.context != "frame" or not isinstance(self.resolution, tuple)
        ):
            raise ValueError("the reference recipe has context 'frame' and a fixed resolution")
        if self.recipe == "reference" and self.fit != "crop":
            raise ValueError(f"the reference recipe crops: fit must be crop, got {self.fit!r}")


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


def siglip_config() -> ExtractConfig:
    """Return the semantic half: SigLIP's penultimate layer, as LLaVA reads it."""
    return ExtractConfig(
        backbone="siglip",
        model=DEFAULT_MODELS["siglip"],
        blocks=(-2,),
        timesteps=(),
        resolution="native",
    )


def reference_config() -> ExtractConfig:
    """Return the released pipeline (H-EmbodVis/VEGA-3D @ 9c96924), mistakes included."""
    return replace(
        ExtractConfig(), recipe="reference", resolution=(720, 1280), fit="crop", dtype="bfloat16"
    )
