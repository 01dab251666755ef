"""Settings of the score and of a report. Standard library only, so that `--help` stays light."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

Anchor = Literal["origin", "minimum"]
Pairs = Literal["all", "adjacent"]
Position = Literal["median", "center"]
Treatment = Literal["raw", "centred", "standardised", "trimmed"]

TREATMENTS: tuple[Treatment, ...] = ("raw", "centred", "standardised", "trimmed")
SCORE_VERSION = 7
"""Counts changes of the arithmetic; part of the digest, so that no old partial result is reused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Decides the numbers of one scene, beside the voxel edge."""

    anchor: Anchor = "origin"
    """Where voxel (0, 0, 0) starts: the world's origin, or the smallest coordinate of the tokens
    compared (of the two views of a pair when `pairs` is adjacent, as the released script does)."""

    pairs: Pairs = "all"
    """Which views are compared: every two, or only neighbours in the order of the store."""

    treatments: tuple[Treatment, ...] = TREATMENTS
    """What is done to unit tokens before they are compared; `raw` is the published score."""

    trim_channels: int = 8
    """Channels of largest mean square that the `trimmed` treatment sets to zero; never more than
    half of all."""

    same_position: bool = True
    """Compute the same-position baseline."""

    matching_treatments: tuple[Treatment, ...] = ("raw", "centred")
    """Treatments for which AUROC and correspondence recall are computed."""

    matching_view_pairs: int = 128
    """View pairs a scene for AUROC and recall, spread evenly over those that share a voxel; these
    two grow with the pairs, so they are capped."""

    recall_m: tuple[float, ...] = (0.05, 0.1, 0.2)
    """A match is right when it lies within so many metres."""

    rotation_edges_deg: tuple[float, ...] = (0.0, 15.0, 30.0, 60.0, 180.0)
    """Edges of the bins of relative rotation between two views, degrees; upper edges included."""

    overlap_edges: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Edges of the bins of overlap: the share of a view's valid tokens that have a token of the
    other view within `overlap_m`; upper edges included."""

    overlap_m: float = 0.2
    """See `overlap_edges`. Tokens of a coarse grid lie farther apart than a voxel, so that shared
    voxels would say little."""

    histogram_bins: int = 8192
    """Bins of the similarity histograms that AUROC is read from: equal in the distance of unit
    vectors, so finer near cosine 1."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.anchor not in ("origin", "minimum") or self.pairs not in ("all", "adjacent"):
            raise ValueError(
                "anchor must be origin or minimum and pairs must be all or adjacent, "
                f"got {self.anchor!r} and {self.pairs!r}"
            )
        if self.trim_channels < 0 or self.matching_view_pairs < 0 or self.histogram_bins < 2:
            raise ValueError(
                "trim_channels and matching_view_pairs must be >= 0 and histogram_bins >= 2, got "
                f"{self.trim_channels}, {self.matching_view_pairs} and {self.histogram_bins}"
            )
        if "raw" not in self.treatments or set(self.treatments) - set(TREATMENTS):
            raise ValueError(
                f"treatments must hold raw and be of {', '.join(TREATMENTS)}; "
                f"got {', '.join(self.treatments)}"
            )
        if bad := set(self.matching_treatments) - set(self.treatments):
            raise ValueError(
                f"matching_treatments must be among `treatments`, got {', '.join(sorted(bad))} too"
            )
        if not self.recall_m or min(*self.recall_m, self.overlap_m) <= 0:
            raise ValueError(
                "recall_m and overlap_m must be positive metres, "
                f"got {self.recall_m} and {self.overlap_m}"
            )
        for name in ("rotation_edges_deg", "overlap_edges"):
            edges: tuple[float, ...] = getattr(self, name)
            if len(edges) < 2 or list(edges) != sorted(set(edges)):
                raise ValueError(f"{name} must be two or more rising numbers, got {edges}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Decides the numbers of a report."""

    voxel_m: float = 0.1
    """Edge of a voxel, metres; the paper's is 0.1."""

    min_depth_share: float = 0.1
    """A token counts when at least this share of its pixels has depth; the released threshold."""

    position: Position = "median"
    """Where a token lies: the median of its pixels' positions, or its central pixel."""

    score: ScoreConfig = field(default_factory=ScoreConfig)
    """The arithmetic of one scene."""

    bootstrap_samples: int = 2000
    """Resamples of the scenes behind each interval."""

    bootstrap_seed: int = 0
    """Seed of the resampling; every row is resampled with the same scenes."""

    def __post_init__(self) -> None:
        """Check every field once."""
        check_voxel(self.voxel_m)
        if not 0 < self.min_depth_share <= 1:
            raise ValueError(f"min_depth_share must lie in (0, 1], got {self.min_depth_share}")
        if self.position not in ("median", "center"):
            raise ValueError(f"position must be median or center, got {self.position!r}")
        if self.bootstrap_samples < 1 or self.bootstrap_seed < 0:
            raise ValueError(
                "bootstrap_samples must be >= 1 and bootstrap_seed >= 0, "
                f"got {self.bootstrap_samples} and {self.bootstrap_seed}"
            )

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the sha256 of every setting and of the arithmetic."""
        return digest_of({"version": SCORE_VERSION, **asdict(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class TapsConfig:
    """Which taps of the stores take part."""

    taps: tuple[str, ...] = ()
    """Names or patterns, such as `k300_b20` or `k300_*`; none named is all. A store that has none
    of them keeps all of its own."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if not all(self.taps):
            raise ValueError(f"a tap has a name, got {self.taps}")

    def choose(self, taps: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of a store's taps that are meant."""
        named = tuple(tap for tap in taps if any(self.matches(text, [tap]) for text in self.taps))
        return named or taps

    @staticmethod
    def matches(text: str, taps: Sequence[str]) -> bool:
        """Say whether a name or pattern means any of some taps."""
        return any(fnmatchcase(tap, text) for tap in taps)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """How a report is computed; changes no number."""

    scheduler: Literal["threads", "processes", "synchronous"] = "threads"
    """Dask's local scheduler, when no address is given."""

    workers: int = 0
    """Local workers; 0 is one a core."""

    dask_address: str = ""
    """Scheduler of a `distributed` cluster, e.g. tcp://host:8786; empty computes here."""

    scenes_shown: int = 3
    """Scenes whose views, components and heat map are drawn when none is named."""

    views_shown: int = 6
    """Neighbouring views drawn of each of them."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.scheduler not in ("threads", "processes", "synchronous"):
            raise ValueError(
                f"scheduler must be threads, processes or synchronous, got {self.scheduler!r}"
            )
        if self.workers < 0 or self.scenes_shown < 0 or self.views_shown < 2:
            raise ValueError(
                "workers and scenes_shown must be >= 0 and views_shown >= 2, "
                f"got {self.workers}, {self.scenes_shown} and {self.views_shown}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExploreConfig:
    """What a page to explore shows."""

    scenes_shown: int = 3
    """Scenes shown where none is named."""

    views_shown: int = 6
    """Neighbouring views shown of each, from the middle of the scene."""

    reach_m: float = 0.2
    """Tokens that lie so close are the same point, metres; those of a coarse grid lie 0.1 to 0.4
    apart."""

    min_depth_share: float = 0.1
    """A token has a position when at least this share of its pixels has depth."""

    dims: int = 128
    """Principal components that the page keeps of each token; it says what that costs."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.scenes_shown < 1 or self.views_shown < 2 or self.dims < 1:
            raise ValueError(
                "scenes_shown and dims must be >= 1 and views_shown >= 2, "
                f"got {self.scenes_shown}, {self.dims} and {self.views_shown}"
            )
        if not (math.isfinite(self.reach_m) and self.reach_m > 0):
            raise ValueError(f"reach_m must be a positive number of metres, got {self.reach_m}")
        if not 0 < self.min_depth_share <= 1:
            raise ValueError(f"min_depth_share must lie in (0, 1], got {self.min_depth_share}")


def score_only_config() -> ScoreConfig:
    """Return the raw score, its random-pair mean and nothing else: the fast path."""
    return ScoreConfig(
        treatments=("raw",), same_position=False, matching_treatments=(), matching_view_pairs=0
    )


def check_voxel(voxel_m: float) -> None:
    """Raise ValueError unless the voxel edge is a positive finite number."""
    if not (math.isfinite(voxel_m) and voxel_m > 0):
        raise ValueError(f"voxel_m must be a positive number of metres, got {voxel_m}")


def digest_of(plain: object) -> str:
    """Return 16 hexadecimal digits of a JSON value's sha256, whatever the order of its keys."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
