"""What was found on the scenes of one place."""

from collections.abc import Mapping
from dataclasses import dataclass

from vega3d.evaluate.probes.summary import ProbeSummary
from vega3d.evaluate.summary import Summary


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The report and the probe of one place."""

    name: str
    """Of the place, and of its folder."""
    scenes: str
    summary: Summary
    probed: ProbeSummary | None
    """None where there is but one scene: probes are fitted on others."""
    failed: Mapping[str, str]
    """Encoder, or a scene of it -> why there is nothing of it."""
