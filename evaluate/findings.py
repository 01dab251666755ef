"""What a report says in words: what the numbers say, and nothing more."""

from collections.abc import Iterable

from vega3d.evaluate.intervals import Correlation, Estimate
from vega3d.evaluate.relations import FEWEST_MODELS, PUBLISHED, SCORES, Related
from vega3d.evaluate.sources import some
from vega3d.evaluate.summary import Row, Summary
from vega3d.evaluate.tables import number

POSITION_NOISE = 0.05
"""Same position above chance up to which it says nothing."""


def findings(summary: Summary) -> list[str]:
    """Say in words what the numbers say, and nothing more."""
    scored = [row for row in summary.rows if row.mean("consistency") is not None]
    if not scored:
        reasons = set(summary.left_out.values()) or {reason for _, reason in summary.refused}
        return [f"No scene has a score: {'; '.join(sorted(reasons))}."]
    by_raw = max(scored, key=lambda row: row.mean("consistency") or 0.0)
    best = scored[0]
    found = [
        f"Raw cosine puts {by_raw.name} first with {_told(by_raw.estimates['consistency'])}; "
        f"pairs that do not match have {number(by_raw.mean('random'))} there."
    ]
    if best.mean("above_chance") is not None:
        found.append(
            f"Above chance, {best.name} is first with {_told(best.estimates['above_chance'])}"
            + (
                "."
                if best is by_raw
                else f", and {by_raw.name} has {number(by_raw.mean('above_chance'))}."
            )
        )
    leaky = [row.name for row in scored if tells_position(row)]
    if leaky:
        found.append(
            f"In {len(leaky)} of {len(scored)} kinds of features ({some(leaky)}), tokens at one "
            "image position agree at least as well as tokens of one 3D point: these features tell "
            "image position more than place."
        )
    if len(summary.common) < 10:
        found.append(
            f"With {len(summary.common)} scenes the intervals are a hint at most."
            if len(summary.common) > 1
            else "With one scene there is no interval."
        )
    return found


def _told(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return number(estimate.mean)
    return f"{number(estimate.mean)} ({number(estimate.low)} to {number(estimate.high)})"


def tells_position(row: Row) -> bool:
    """Tell whether one image position makes tokens as alike as one 3D point does, or more."""
    position = row.mean("position_above_chance")
    floor = max(row.mean("above_chance") or 0.0, POSITION_NOISE)
    return position is not None and position >= floor


def downstream_findings(related: Related) -> Iterable[str]:
    """Say how the scores go with results, and where that says little."""
    for relation in related.relations:
        if relation.score not in (PUBLISHED, *SCORES.values())[:3]:
            continue  # the table has them all
        p, s, n = relation.pearson, relation.spearman, len(relation.points)
        yield (
            f"NOS against {relation.score}, {n} models: Pearson {_interval_told(p)}, "
            f"Spearman {_interval_told(s)}."
        )
    few = [len(relation.points) for relation in related.relations if len(relation.points) < 10]
    if few:
        yield (
            f"{min(few)} models are few: bootstrap intervals over them are too narrow (one of no "
            "width only says that no resample breaks the order), and models of one family are not "
            "independent points."
        )
    if any(relation.score == PUBLISHED for relation in related.relations):
        missing = [m for m in related.overall if m not in related.results.published]
        yield (
            f"{len(missing)} of {len(related.overall)} rows have no published score and take no "
            f"part in its correlation: {', '.join(missing)}."
        )
    found = ", ".join(f"{model} is {row.name}" for model, row in related.matched.items())
    hint = "none; a store is placed by its label, as in Wan2.1-T2V=STORE, or by its model's hub id"
    yield f"Rows of this report that are models of the table: {found or hint}."
    if found and len(related.matched) < FEWEST_MODELS:
        yield f"A correlation with a score of this report needs {FEWEST_MODELS} models."


def _interval_told(correlation: Correlation) -> str:
    value, low, high = map(number, (correlation.value, correlation.low, correlation.high))
    return f"{value} ({low} to {high}; p = {number(correlation.p_value)})"
