"""Scores by what a question needs, where its record says so (`vega3d-benchmark make`)."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from vega3d.evaluate.benchmarks.files import read_records
from vega3d.evaluate.benchmarks.measures import OVERALL, Score, mean_measures


def with_needs(score: Score, annotations: str | Path) -> Score:
    """Return a score with the mean worth of the queries of each need, or as it was."""
    if not annotations or Path(annotations).suffix == ".parquet":
        return score
    found = {}
    for record in read_records(annotations):
        if record.has("needs") and record.has("question_id", "id", "sample_id"):
            found[record.text("question_id", "id", "sample_id")] = str(record.get("needs"))
    needs = [found.get(query.query_id, "") for query in score.queries]
    if not any(needs):
        return score
    worth = np.array([query.worth for query in score.queries], dtype=np.float64)
    measures = [m for m in mean_measures("worth", worth, needs) if m.group not in (OVERALL, "")]
    return replace(score, measures=(*score.measures, *measures))
