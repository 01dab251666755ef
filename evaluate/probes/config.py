"""Settings of the probes. Standard library only, so that `--help` stays light."""

from dataclasses import asdict, dataclass

from vega3d.evaluate.config import digest_of

PROBE_VERSION = 4
"""Counts changes of the arithmetic; part of the digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Decides the numbers of the probes."""

    folds: int = 5
    """Parts that the scenes are split into: each part is scored by probes fitted on the others."""

    max_tokens: int = 40_000
    """Tokens that are fitted and scored, shared evenly by the scenes and drawn by the seed: the
    same ones for every store of one grid."""

    strengths: tuple[float, ...] = (1e-4, 1e-2, 1.0, 100.0)
    """Of the ridge, in shares of the standardised channels' variance (the last reads little more
    than the mean); chosen on scenes that are fitted,
    never on those scored."""

    mlp_hidden: int = 128
    """Width of the small MLP's one hidden layer; 0 leaves the MLP out."""

    mlp_steps: int = 400
    """Steps of 512 tokens (or as many as there are) that the MLP is fitted for at most: how far it
    is believed is chosen on scenes that it was not fitted on, and that are not scored."""

    pose_components: int = 64
    """Principal components of a quarter of a view, from which relative pose is read."""

    min_depth_share: float = 0.1
    """A token counts when at least this share of its pixels has depth."""

    bootstrap_samples: int = 2000
    """Resamples of the scenes behind each interval."""

    seed: int = 0
    """Of the folds, the tokens, the MLP's first weights and the resampling."""

    def __post_init__(self) -> None:
        """Check every field once."""
        least = {"folds": 2, "max_tokens": 1, "mlp_steps": 1, "pose_components": 1}
        least |= {"mlp_hidden": 0, "bootstrap_samples": 1, "seed": 0}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                raise ValueError(f"{name} must be >= {low}, got {value}")
        if not self.strengths or min(self.strengths) <= 0:
            raise ValueError(f"strengths must be positive numbers, got {self.strengths}")
        if not 0 < self.min_depth_share <= 1:
            raise ValueError(f"min_depth_share must lie in (0, 1], got {self.min_depth_share}")

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the sha256 of every setting and of the arithmetic."""
        return digest_of({"version": PROBE_VERSION, **asdict(self)})
