"""The tables of the page, as text cells; a number that does not exist is a dash, never NaN."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vega3d.evaluate.config import ReportConfig
from vega3d.evaluate.intervals import Correlation, Estimate
from vega3d.evaluate.matching import RECALL_COUNTS, RecallCounts
from vega3d.evaluate.metrics import centimetres, rates
from vega3d.evaluate.relations import Related
from vega3d.evaluate.summary import Row, Summary
from vega3d.pipeline.texts import safe

DASH, NBSP = "\N{EN DASH}", "\N{NO-BREAK SPACE}"
_RECALL_HEADS = ("recall", "mutual recall", "mutual precision")


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean and its interval as text."""

    mean: str
    interval: str


@dataclass(frozen=True, slots=True)
class Table:
    """Column heads, rows of text, and what to know about them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One line of the ranked table."""

    label: str
    tap: str
    made_by: str
    raw: Cell
    macro: Cell
    raw_rank: str
    random: Cell
    above: Cell
    behind: Cell
    bar: float | None
    """Above chance, per cent of the track."""
    num_scenes: str
    num_pairs: str


@dataclass(frozen=True, slots=True)
class Controls:
    """The table of controls, and what each of them would expose."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    terms: tuple[tuple[str, str], ...]
    caption: str


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as text, zero without a sign; a dash for None."""
    return DASH if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def counted(count: int, noun: str) -> str:
    """Return a count and its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def cell(estimate: Estimate | None, digits: int = 3) -> Cell:
    """Return a mean and its interval as text."""
    if estimate is None or estimate.mean is None:
        return Cell(DASH, "")
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"
    return Cell(number(estimate.mean, digits), interval)


def score_rows(summary: Summary) -> list[ScoreRow]:
    """Return the ranked table."""
    raw = sorted(
        (row.mean("consistency") for row in summary.rows if row.mean("consistency") is not None),
        key=lambda mean: -(mean or 0.0),
    )
    rows = []
    for row in summary.rows:
        above, score = row.mean("above_chance"), row.mean("consistency")
        first = row is summary.rows[0]
        rows.append(
            ScoreRow(
                label=row.source.label,
                tap=row.tap,
                made_by=made_by(row),
                raw=cell(row.estimates.get("consistency")),
                macro=cell(row.estimates.get("consistency_macro")),
                raw_rank=DASH if score is None else str(raw.index(score) + 1),
                random=cell(row.estimates.get("random")),
                above=cell(row.estimates.get("above_chance")),
                behind=Cell(DASH, "") if first else cell(row.behind),
                bar=None if above is None else round(100 * min(max(above, 0.0), 1.0), 1),
                num_scenes=str(len(summary.common)),
                num_pairs=f"{row.counts.get('num_pairs', 0):,}",
            )
        )
    return rows


def made_by(row: Row) -> str:
    """Return what made a store's features, as far as its config says."""
    config = row.source.config
    model = safe(str(config.get("model", ""))).rstrip("/").rsplit("/", 1)[-1]
    parts = [str(config.get("backbone", "")), model]
    if config.get("context"):
        parts.append(f"{config['context']} context")
    rows, cols = row.source.grid
    parts.append(f"{rows} x {cols} x {row.source.channels[row.tap]}")
    return ", ".join(dict.fromkeys(part for part in parts if part))


def controls(summary: Summary) -> Controls:
    """Return the controls that were computed, each with what it would expose."""
    config = summary.config
    middle = centimetres(config.score.recall_m[len(config.score.recall_m) // 2])
    offered = [
        ("above_chance", "above chance", ""),
        ("position_above_chance", "same position, above chance", _POSITION),
        ("trimmed_above_chance", "trimmed, above chance", _trimmed_text(summary)),
        ("centred_consistency", "centred", _CENTRED),
        ("standardised_consistency", "standardised", _STANDARDISED),
        ("auroc", "AUROC", _AUROC),
        ("centred_auroc", "AUROC, centred", ""),
        (f"recall_{middle}", f"recall within {middle.replace('cm', NBSP + 'cm')}", _RECALL),
        ("noise_floor", "noise floor", _NOISE),
        ("noise_floor_above_chance", "noise floor, above chance", _NOISE_ABOVE),
    ]
    there = [
        (metric, name, text)
        for metric, name, text in offered
        if any(row.mean(metric) is not None for row in summary.rows)
    ]
    rows = [
        (row.name, tuple(cell(row.estimates.get(metric)) for metric, _, _ in there))
        for row in summary.rows
    ]
    return Controls(
        columns=tuple(name for _, name, _ in there),
        rows=tuple(rows),
        terms=tuple((name, text) for _, name, text in there if text),
        caption=f"Mean over scenes; below it the {interval_text(config)}. {_centred_on(summary)}",
    )


def recall_tables(summary: Summary) -> list[Table]:
    """Return recall by threshold, and by overlap at the middle threshold."""
    score = summary.config.score
    overall, by_overlap = [], []
    middle = len(score.recall_m) // 2
    for row in summary.rows:
        for treatment, counts in row.recall.items():
            name = f"{row.name}, {treatment}"
            found = [_named(row_counts) for row_counts in counts.overall.tolist()]
            overall.append((name, *_recall_cells(found)))
            shares = [_named(one) for one in counts.by_overlap[:, middle].tolist()]
            by_overlap.append((name, *(number(rates(one)["recall"]) for one in shares)))
    if not overall:
        return []
    first = next(iter(next(row for row in summary.rows if row.recall).recall.values()))
    asked = [f"n = {int(n):,}" for n in first.by_overlap[:, middle, 0]]
    heads = [f"{name}, {100 * t:g}{NBSP}cm" for name in _RECALL_HEADS for t in score.recall_m]
    edges = pairwise(score.overlap_edges)
    overlaps = [f"overlap {a:g} to {b:g}, {n}" for (a, b), n in zip(edges, asked, strict=True)]
    return [
        Table(
            ("features", *heads),
            tuple(overall),
            "Pooled over scenes; in brackets blind choice, and for precision the mutual matches: "
            "all of them, those of tokens without a counterpart included, which cannot be right. "
            f"Queries of the first row: {_asked(first, score.recall_m)}. {_matching_text(summary)}",
        ),
        Table(
            ("features", *overlaps),
            tuple(by_overlap),
            f"Recall within {100 * score.recall_m[middle]:g} cm by overlap: the share of the "
            "asking view's valid tokens that have a token of the other view within "
            f"{100 * score.overlap_m:g} cm; n: queries.",
        ),
    ]


def count_table(summary: Summary) -> Table:
    """Return every count behind the means."""
    columns = (
        ("num_views", "views"),
        ("num_cells_of_grid", "tokens"),
        ("num_tokens", "valid tokens"),
        ("num_directionless", "zero tokens"),
        ("num_voxels", "shared voxels"),
        ("num_pairs", "matching pairs"),
        ("num_random_pairs", "random pairs"),
        ("num_position_pairs", "same-position pairs"),
        ("num_view_pairs", "view pairs that meet"),
        ("num_view_pairs_matched", "of them matched"),
    )
    rows = [
        (row.name, *(f"{row.counts.get(name, 0):,}" for name, _ in columns)) for row in summary.rows
    ]
    return Table(
        ("features", *(head for _, head in columns)),
        tuple(rows),
        "Summed over the scenes in every mean. Zero tokens have no direction; their cosine counts "
        "as 0. Matched view pairs are those used for AUROC and recall.",
    )


def downstream_tables(related: Related) -> list[Table]:
    """Return NOS by model, and every correlation."""
    published = related.results.published
    by_model = [
        (
            model,
            str(rank),
            number(related.overall[model]),
            number(published.get(model), 4),
            related.matched[model].name if model in related.matched else DASH,
        )
        for model, rank in nos_ranks(related).items()
    ]
    correlations = [
        (
            relation.score,
            str(relation.pearson.num_points),
            *_correlation_cells(relation.pearson),
            *_correlation_cells(relation.spearman),
        )
        for relation in related.relations
    ]
    heads = ("score", "models", "Pearson", "95 %", "p", "Spearman", "95 %", "p")
    caption = (
        "95 %: percentile bootstrap over models; resamples of constant values are left out. "
        "p: share of all orders of the models that correlate at least as strongly, either sign."
    )
    return [
        Table(
            ("model", "#", "NOS", "published score", "in this report"),
            tuple(by_model),
            f"Metrics: {', '.join(related.results.metrics)}. #: rank by NOS, and the model's "
            "number in a picture of many models.",
        ),
        Table(heads, tuple(correlations), caption),
    ]


def nos_ranks(related: Related) -> dict[str, int]:
    """Return each model's rank by NOS, best first."""
    models = sorted(related.overall, key=lambda model: -related.overall[model])
    return {model: rank for rank, model in enumerate(models, 1)}


def interval_text(config: ReportConfig) -> str:
    """Say what the intervals are."""
    return (
        f"95 % percentile interval of {config.bootstrap_samples:,} bootstrap resamples of the "
        f"scenes (seed {config.bootstrap_seed}, the same resamples in every row)"
    )


def _correlation_cells(correlation: Correlation) -> tuple[str, str, str]:
    low, high = number(correlation.low), number(correlation.high)
    return number(correlation.value), f"{low} to {high}", number(correlation.p_value)


def _recall_cells(by_threshold: Sequence[dict[str, float]]) -> Iterator[str]:
    for counts in by_threshold:
        found = rates(counts)
        yield f"{number(found['recall'])} ({number(found['chance_recall'])})"
    for counts in by_threshold:
        yield number(rates(counts)["mutual_recall"])
    for counts in by_threshold:
        yield f"{number(rates(counts)['mutual_precision'])} ({int(counts['mutual']):,})"


def _named(counts: Sequence[float]) -> dict[str, float]:
    return dict(zip(RECALL_COUNTS, counts, strict=True))


def _asked(counts: RecallCounts, thresholds_m: Sequence[float]) -> str:
    asked = counts.overall[:, RECALL_COUNTS.index("possible")]
    return ", ".join(
        f"{int(n):,} within {100 * t:g} cm" for n, t in zip(asked, thresholds_m, strict=True)
    )


def _matching_text(summary: Summary) -> str:
    limit = summary.config.score.matching_view_pairs
    return f"At most {limit} view pairs a scene, spread evenly over those that share a voxel."


def _centred_on(summary: Summary) -> str:
    told = {where for row in summary.rows for where in row.records.centred_on}
    if told == {"other scenes"}:
        return "Treatments take their statistics from all other scenes of the same store."
    if told == {"this scene"}:
        return "There is one scene only: treatments take their statistics from it."
    return "Treatments take their statistics from the other scenes, or the scene itself if alone."


def _trimmed_text(summary: Summary) -> str:
    return (
        f"The {summary.config.score.trim_channels} channels of largest mean square (never more "
        "than half) are set to zero, tokens are of length one again, and S and R are taken anew. "
        "It exposes a score that a few massive channels carry: then it is far from the untrimmed."
    )


_POSITION = (
    "Mean raw cosine P of tokens at one grid position of two views, in two voxels, as "
    "(P - R) / (1 - R). It exposes features that say where in the image they are, not what is "
    "there: then it is as high as the consistency above chance, or higher."
)
_CENTRED = (
    "The score after the mean token is taken off. Tokens are of length one before and after. It "
    "exposes a common offset: features that owe their score to it fall towards 0 from their raw "
    "consistency."
)
_STANDARDISED = (
    "As centred, and each channel divided by its deviation, so that no channel counts more than "
    "another. It exposes agreement that lives in a few channels of large variance."
)
_AUROC = (
    "Chance that a matching pair is more alike than one that does not match: 0.5 is blind, 1 is "
    "perfect, whatever the scale of the cosines. It exposes a high mean without any separation."
)
_RECALL = (
    "Share of tokens whose nearest neighbour in another view lies within that distance of them in "
    "3D, beside blind choice. It exposes features that agree on average but cannot find a point."
)
_NOISE = (
    "Mean cosine of a token with itself under another noise. It exposes how much of the feature is "
    "the noise that was drawn."
)
_NOISE_ABOVE = (
    "The same mean F as (F - R) / (1 - R): an offset common to all tokens raises F, but not this."
)
