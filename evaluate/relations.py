"""How the scores of a report go with downstream results."""

from collections.abc import Mapping
from dataclasses import dataclass

from vega3d.evaluate.downstream import Relation, Results, overall_scores, relate
from vega3d.evaluate.summary import Row, Summary

PUBLISHED = "published raw consistency"
SCORES = {
    "consistency": "raw consistency",
    "above_chance": "above chance",
    "centred_consistency": "centred",
    "standardised_consistency": "standardised",
    "trimmed_consistency": "trimmed",
    "auroc": "AUROC",
    "centred_auroc": "AUROC, centred",
}
"""Metric -> what it is called beside NOS."""

FEWEST_MODELS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Related:
    """A results table beside the scores of the same models."""

    results: Results
    overall: Mapping[str, float]
    """Model -> NOS."""
    matched: Mapping[str, Row]
    """Model -> the row of this report that is it."""
    relations: tuple[Relation, ...]
    """Every score that at least three models have."""


def relate_rows(summary: Summary, results: Results) -> Related:
    """Find each row's model in the results table and correlate every score with NOS.

    A store is a model of the table when its label, or the model in its config, is one of the
    model's names; its best row above chance stands for it. The backbone's name alone is not
    enough: a backbone with other weights is another model.
    """
    overall = overall_scores(results)
    matched: dict[str, Row] = {}
    for row in summary.rows:
        model = results.find(row.source.label, str(row.source.config.get("model", "")))
        if model is not None:
            matched.setdefault(model, row)
    by_score: dict[str, dict[str, float | None]] = {PUBLISHED: dict(results.published)}
    for metric, name in SCORES.items():
        by_score[name] = {model: row.mean(metric) for model, row in matched.items()}
    config = summary.config
    relations = [
        relate(name, values, overall, config.bootstrap_samples, config.bootstrap_seed)
        for name, values in by_score.items()
    ]
    kept = tuple(r for r in relations if len(r.points) >= FEWEST_MODELS)
    return Related(results=results, overall=overall, matched=matched, relations=kept)
