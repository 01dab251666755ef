"""Settings of `vega3d-train host fit`. Standard library only, so that `--help` stays light."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vega3d.train.config import GATED

Precision = Literal["float32", "bfloat16"]
BENCHMARKS = ("scanrefer", "multi3drefer", "scan2cap", "scanqa", "sqa3d", "vsi")
"""Whose questions can be asked and answered in words."""

TINY = ("tiny", "tiny-qwen2.5-vl", "tiny-qwen3-vl")
"""Hosts made on the spot: small random models of the real classes (`tiny` is LLaVA-OneVision)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostConfig:
    """Decides the numbers of a run: change a field and it is another run."""

    host: str = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    """Hub id or folder of a LLaVA-OneVision, Qwen2.5-VL or Qwen3-VL; or tiny, tiny-qwen2.5-vl,
    tiny-qwen3-vl: small random models of these classes, which download nothing."""

    benchmarks: tuple[str, ...] = BENCHMARKS
    """Whose questions are asked, of those that the files have."""

    variant: str = "adaptive"
    """Gate of the fusion: adaptive, channel, token_gated, token_gated_residual; add, weighted."""

    without_prior: bool = False
    """Leave the prior out and train the adapters alone: what a run with it is compared to."""

    lora_rank: int = 0
    """Rank of LoRA adapters (peft); 0 freezes the whole host."""

    lora_alpha: float = 16.0
    """Scale of the adapters, over their rank."""

    lora_targets: str = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    """Names of the linear layers with adapters: a regular expression of a whole name."""

    precision: Precision = "bfloat16"
    """Of the host's weights; what is added is float32."""

    views: int = 8
    """Views of a scene that the host sees, evenly over those of the store."""

    view_pixels: int = 200_704
    """Pixels of a view at most, for hosts that take any size (Qwen: 256 tokens of 28 x 28)."""

    steps: int = 1000
    """Optimiser steps."""

    batch_size: int = 16
    """Questions a step, over all processes."""

    lr: float = 1e-4
    """Peak learning rate of AdamW."""

    warmup: float = 0.03
    """Share of the steps with a rising rate; a cosine to zero follows."""

    weight_decay: float = 0.0
    """Of matrices only; biases, norms and scales have none."""

    clip_norm: float = 1.0
    """Largest norm of the gradient; 0 leaves it alone."""

    val_share: float = 0.25
    """Share of the scenes kept for scoring, where the files' names give no split."""

    scored_questions: int = 0
    """Questions of a benchmark that are answered after training, evenly over them; 0 is all."""

    answer_tokens: int = 64
    """Tokens of an answer at most."""

    seed: int = 0
    """Of the first weights and the order of the questions."""

    split_seed: int = 0
    """Of the choice of scoring scenes."""

    def __post_init__(self) -> None:
        """Check every field once."""
        unknown = [name for name in self.benchmarks if name not in BENCHMARKS]
        if unknown or not self.benchmarks:
            raise ValueError(f"benchmarks must be of {BENCHMARKS}, got {self.benchmarks}")
        if self.variant not in (*GATED, "add", "weighted"):
            raise ValueError(
                f"variant must be one of {(*GATED, 'add', 'weighted')}, got {self.variant!r}"
            )
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"precision must be one of {get_args(Precision)}, got {self.precision!r}"
            )
        if self.without_prior and not self.lora_rank:
            raise ValueError("without_prior trains adapters alone: give lora_rank, such as 16")
        floors = {"lora_rank": 0, "scored_questions": 0, "seed": 0, "split_seed": 0, "views": 1}
        floors |= {"view_pixels": 1, "steps": 1, "batch_size": 1, "answer_tokens": 1}
        for name, floor in floors.items():
            if getattr(self, name) < floor:
                raise ValueError(f"{name} must be >= {floor}, got {getattr(self, name)}")
        if not (self.lr > 0 and self.lora_alpha > 0):
            raise ValueError(
                f"lr and lora_alpha must be positive, got {self.lr} and {self.lora_alpha}"
            )
        if self.weight_decay < 0 or self.clip_norm < 0 or not 0 <= self.warmup < 1:
            raise ValueError(
                "weight_decay and clip_norm must be >= 0 and warmup in [0, 1), got "
                f"{self.weight_decay}, {self.clip_norm} and {self.warmup}"
            )
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share must lie in (0, 1), got {self.val_share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostRun:
    """How a run is carried out; changes its speed and its journal, never its numbers."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda`; under torchrun `cuda` is the process's own."""

    shard: bool = False
    """Spread the host's frozen weights over the processes of torchrun (FSDP)."""

    recompute: bool = False
    """Compute the host's layers again on the way back, which saves memory."""

    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""

    checkpoint_every: int = 200
    """Steps between two checkpoints; the last step always has one."""

    held_scenes: int = 8
    """Scenes whose decoded views are kept in memory."""

    deterministic: bool = True
    """Ask for deterministic kernels, so that a resumed run repeats bit for bit."""

    allow_partial: bool = False
    """Train on the committed part of a store that is not finished."""

    def __post_init__(self) -> None:
        """Check every field once."""
        for name in ("log_every", "checkpoint_every", "held_scenes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")


_REPEAT = {"repeat": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSources:
    """Where a run's views, priors and questions come from; they are part of what it is."""

    scenes: str
    """Where the views are: any SCENES that `vega3d-extract` reads, those that the prior is of."""

    prior: tuple[str, ...] = field(metadata=_REPEAT)
    """Store of generative features; repeat it for several that are read as one."""

    questions: tuple[str, ...] = field(metadata=_REPEAT)
    """Annotation file of a benchmark, or a folder of `vega3d-benchmark make`; repeat it for
    several, files of candidate boxes too."""

    prior_tap: str | None = None
    """Which features of the prior, where it has several taps."""


def to_plain(config: HostConfig) -> dict[str, Any]:
    """Return a config as plain JSON values, tuples as lists."""
    plain = {name: getattr(config, name) for name in config.__dataclass_fields__}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}
