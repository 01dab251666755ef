"""Downstream results, their normalised overall score (NOS), and how a score relates to them.

A results table is a CSV file: lines that start with `#` are comments (`# title:` and `# source:`
are shown); a column `model`; optionally `aliases` (other names, divided by `;`) and
`published_consistency` (a fraction); every other column is a metric, higher better, or lower better
where its name starts with `-`. Table 4 of the paper ships as data/vega3d_table4.csv.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from vega3d.evaluate.intervals import Correlation, correlate, pearson, spearman
from vega3d.pipeline.errors import UsageError

RESERVED = ("model", "aliases", "published_consistency")
PAPER = "paper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Downstream results of several models."""

    title: str
    source: str
    metrics: tuple[str, ...]
    models: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    """One row a model, one column a metric."""
    aliases: Mapping[str, str]
    """Lower-case name -> model."""
    published: Mapping[str, float]
    """Model -> published raw consistency, where there is one."""

    def find(self, *names: str) -> str | None:
        """Return the row that one of the names means; None if there is none."""
        found = [self.aliases[name.lower()] for name in names if name.lower() in self.aliases]
        return found[0] if found else None


def read_results(path: str) -> Results:
    """Read a results table; the path `paper` means Table 4 of the paper.

    Raises:
        UsageError: A column, a model or a number is missing; the message says where.
    """
    if path == PAPER:
        shipped = resources.files("vega3d.evaluate") / "data" / "vega3d_table4.csv"
        return parse_results(shipped.read_text(encoding="utf-8"), "vega3d_table4.csv")
    try:
        return parse_results(Path(path).read_text(encoding="utf-8-sig"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: cannot be read ({getattr(error, 'strerror', 'not UTF-8')}); or say `paper`"
        ) from error


def parse_results(text: str, name: str) -> Results:
    """Parse the text of a results table."""
    lines = text.splitlines()
    notes = {
        key.strip("# ").lower(): value.strip()
        for key, _, value in (line.partition(":") for line in lines if line.startswith("#"))
    }
    body = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    rows = list(csv.reader([line for _, line in body]))
    numbers = [n for n, _ in body]
    header = [column.strip() for column in rows[0]] if rows else []
    metrics = tuple(column for column in header if column not in RESERVED)
    if "model" not in header or not metrics or len(rows) < 3 or len(set(header)) < len(header):
        raise UsageError(
            f"{name}: a results table needs a header with `model` and at least one metric, all "
            f"different, and two models or more; got header {header} and {len(rows[1:])} rows"
        )
    values, aliases, published = {}, {}, {}
    for number, row in zip(numbers[1:], rows[1:], strict=True):
        where = f"{name}, line {number}"
        if len(row) != len(header):
            raise UsageError(f"{where}: {len(row)} values for {len(header)} columns")
        record = {column: cell.strip() for column, cell in zip(header, row, strict=True)}
        model = record["model"]
        if not model or model in values:
            raise UsageError(f"{where}: a model needs a name of its own, got {model!r}")
        values[model] = tuple(_number(record[metric], f"{where}, {metric}") for metric in metrics)
        for alias in (model, *filter(None, record.get("aliases", "").split(";"))):
            aliases[alias.strip().lower()] = model
        if record.get("published_consistency"):
            published[model] = _number(record["published_consistency"], where)
    return Results(
        title=notes.get("title", name),
        source=notes.get("source", name),
        metrics=metrics,
        models=tuple(values),
        values=tuple(values.values()),
        aliases=aliases,
        published=published,
    )


def overall_scores(results: Results) -> dict[str, float]:
    """Return each model's NOS: the mean of its metrics, each min-max normalised over all rows.

    A metric that is the same for all models says nothing and is left out.

    Source: VEGA-3D, arXiv 2603.19235v2, NOS (Fig. 3b); the baseline's row is one of the rows.
    """
    table = np.array(results.values, dtype=np.float64)
    table *= np.array([-1.0 if metric.startswith("-") else 1.0 for metric in results.metrics])
    low, high = table.min(axis=0), table.max(axis=0)
    telling = high > low
    if not telling.any():
        raise UsageError(f"{results.title}: every metric is the same for all models")
    scaled = (table[:, telling] - low[telling]) / (high[telling] - low[telling])
    return dict(zip(results.models, scaled.mean(axis=1).tolist(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """How one score goes with NOS over the models that have both."""

    score: str
    points: tuple[tuple[str, float, float], ...]
    """Model, score, NOS."""
    pearson: Correlation
    spearman: Correlation


def relate(
    score: str,
    by_model: Mapping[str, float | None],
    overall: Mapping[str, float],
    samples: int,
    seed: int,
) -> Relation:
    """Correlate one score with NOS over the models that have both."""
    points = [
        (model, value, overall[model])
        for model, value in by_model.items()
        if value is not None and model in overall
    ]
    x, y = _column(points, 1), _column(points, 2)
    return Relation(
        score=score,
        points=tuple(points),
        pearson=correlate(x, y, pearson, samples, seed),
        spearman=correlate(x, y, spearman, samples, seed),
    )


def _column(points: Sequence[tuple[str, float, float]], index: int) -> np.ndarray:
    return np.array([point[index] for point in points], dtype=np.float64)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{where}: needs a number, got {text!r}")
    return value
