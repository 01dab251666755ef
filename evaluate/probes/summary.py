"""The rows of a probe: one a tap, and the controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vega3d.evaluate.intervals import Estimate
from vega3d.evaluate.probes.config import ProbeConfig
from vega3d.evaluate.probes.measures import QUESTIONS, error_of, resampled, score_of
from vega3d.evaluate.probes.parts import SceneSums
from vega3d.evaluate.sources import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRow:
    """What is read from one kind of feature, or without any."""

    label: str
    tap: str
    control: bool
    scores: Mapping[tuple[str, str], Estimate]
    """(reader, question) -> R2 or accuracy; reader `gain` is what the features add to position."""
    errors: Mapping[tuple[str, str], Estimate]
    """The same in plain terms."""
    asked: Mapping[str, int]
    """Question -> tokens or pairs scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSummary:
    """Everything that the page and the JSON say."""

    comparison: Comparison
    config: ProbeConfig
    rows: tuple[ProbeRow, ...]
    labels: str
    """Where classes come from; "" for nowhere."""

    @property
    def questions(self) -> list[str]:
        """What could be asked of these scenes."""
        held = {question for row in self.rows for _, question in row.scores}
        return [question.name for question in QUESTIONS if question.name in held]


def row_of(
    label: str, tap: str, sums: SceneSums, readers: Sequence[str], config: ProbeConfig
) -> ProbeRow:
    """Turn sums a scene into numbers with intervals over scenes; one reader is a control's."""
    scores: dict[tuple[str, str], Estimate] = {}
    errors: dict[tuple[str, str], Estimate] = {}
    draw = config.bootstrap_samples, config.seed
    control = len(readers) == 1
    for (reader, question), table in sums.items():
        if reader not in readers or (reader == "position" and not control):
            continue
        key = ("ridge" if control else reader), question
        found = resampled(table, score_of, *draw)
        scores[key] = found.estimate
        if table.shape[1] > 2:
            errors[key] = resampled(table, error_of, *draw).estimate
        if reader == "both":
            alone = resampled(sums["position", question], score_of, *draw)
            scores["gain", question] = (found - alone).estimate
    return ProbeRow(
        label=label,
        tap=tap,
        control=control,
        scores=scores,
        errors=errors,
        asked={q: int(np.sum(table[:, 0])) for (_, q), table in sums.items()},
    )
