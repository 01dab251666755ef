"""Settings of a benchmark's scoring. Standard library only, so that `--help` stays light."""

from dataclasses import dataclass

BENCHMARKS = ("scanrefer", "multi3drefer", "scan2cap", "scanqa", "sqa3d", "vsi", "libero")
"""A module of this folder each; what one holds is told in `catalogue.py`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringConfig:
    """Decides the numbers of a table, beside the files."""

    protocol: str = ""
    """How to score, named after the script that it repeats; "" takes the official one."""

    bootstrap_samples: int = 2000
    """Resamples of the scenes behind intervals and paired tests."""

    bootstrap_seed: int = 0
    """Seed of the resampling."""

    worst: int = 20
    """Worst answers that the page shows."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.bootstrap_samples < 1 or self.bootstrap_seed < 0 or self.worst < 0:
            raise ValueError(
                "bootstrap_samples must be >= 1, bootstrap_seed and worst >= 0, got "
                f"{self.bootstrap_samples}, {self.bootstrap_seed} and {self.worst}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MakingConfig:
    """Decides which questions are made of which rooms."""

    per_room: int = 24
    """Questions a room and benchmark, at most."""

    val_share: float = 0.25
    """Share of the rooms kept for validation, at least one."""

    seed: int = 0
    """Of the choice of questions and of the split."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.per_room < 1 or self.seed < 0 or not 0 < self.val_share <= 1:
            raise ValueError(
                "per_room must be >= 1, seed >= 0 and val_share in (0, 1], got "
                f"{self.per_room}, {self.seed} and {self.val_share}"
            )
