"""Charts of a report as SVG text that takes its colours and font from the page.

Matplotlib draws with placeholder colours; each is then replaced by a CSS variable, so that one
picture reads well on a light and on a dark page. Text stays text.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox, BboxBase

from vega3d.evaluate.downstream import Relation
from vega3d.evaluate.matching import RECALL_COUNTS, RecallCounts, Separation, bin_edges

MOST_SERIES = 8
"""Series a chart shows at most: more cannot be told apart."""

MOST_NAMED = 6
"""Points of a scatter up to which each carries its name; more carry their number in the table."""

_INK, _FAINT, _PAPER = "#010203", "#010204", "#010205"
_SERIES = tuple(f"#0102{16 + k:02x}" for k in range(MOST_SERIES))
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--faint)", _PAPER: "var(--paper)"} | {
    color: f"var(--series-{k})" for k, color in enumerate(_SERIES)
}
_MARKERS = "osD^vP*X"
_NAME_PLACES = ((8, 0), (-8, 0), (0, 10), (0, -10), (8, 9), (8, -9), (-8, 9), (-8, -9))
"""Where a point's name may stand, points right and up of it; the first that is free is taken."""
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.5,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A named series of one chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    style: str = "-"
    color: int | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """Labels and ticks of a chart of lines."""

    x_label: str
    y_label: str
    ticks: Sequence[tuple[float, str]]
    width_in: float = 6.4
    from_zero: bool = False


def separation_chart(columns: Sequence[tuple[str, Sequence[tuple[str, Separation]]]]) -> str:
    """Draw the similarity distributions: a row a kind of feature, a column a treatment.

    Args:
        columns: Treatment, and for each kind of feature its name and histograms.
    """
    num_rows = max(len(rows) for _, rows in columns)
    with _styled(_STYLE):
        figure = Figure(figsize=(10.4, 0.8 + 1.7 * num_rows), layout="constrained")
        axes = figure.subplots(num_rows, len(columns), squeeze=False)
        for k, (treatment, rows) in enumerate(columns):
            for r, (name, separation) in enumerate(rows):
                _draw_separation(axes[r, k], separation)
                auroc = separation.auroc
                told = "no pairs" if auroc is None else f"AUROC {auroc:.3f}"
                axes[r, k].set_title(f"{name}, {treatment}: {told}", loc="left")
            axes[len(rows) - 1, k].set_xlabel("cosine of two cells of different views")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
        return _svg(figure, "separation")


def lines_chart(lines: Sequence[Line], axis: Axis) -> str:
    """Draw series with their intervals over a common axis, side by side where they share an x."""
    with _styled(_STYLE):
        figure = Figure(figsize=(axis.width_in, 3.4), layout="constrained")
        axes = figure.subplots()
        every = sorted({x for line in lines for x in line.x})
        step = min((b - a for a, b in pairwise(every)), default=1.0)
        for k, line in enumerate(lines[:MOST_SERIES]):
            y = _filled(line.y)
            shift = (k - (min(len(lines), MOST_SERIES) - 1) / 2) * 0.04 * step
            x = np.array(line.x, dtype=np.float64) + (shift if line.low else 0.0)
            color = _SERIES[line.color if line.color is not None else k]
            axes.plot(x, y, line.style, marker=_MARKERS[k], color=color, label=line.name, ms=5)
            if line.low:
                low, high = _filled(line.low), _filled(line.high)
                axes.errorbar(x, y, [y - low, high - y], fmt="none", color=color, capsize=3)
        axes.set_xlabel(axis.x_label)
        axes.set_ylabel(axis.y_label)
        places = [x for x, _ in axis.ticks]
        room = 0.08 * ((max(places) - min(places)) or 1.0)
        axes.set_xticks(places, [text for _, text in axis.ticks])
        axes.set_xlim(min(places) - room, max(places) + room)
        if axis.from_zero:
            axes.set_ylim(bottom=0.0)
        figure.legend(loc="outside right upper")
        return _svg(figure, f"lines-{axis.x_label}-{axis.y_label}")


def recall_chart(
    series: Sequence[tuple[str, Mapping[str, RecallCounts]]],
    edges_deg: Sequence[float],
    threshold: int,
    label: str,
) -> str:
    """Draw recall within one threshold against rotation; a colour a kind of feature.

    Args:
        series: Name, and counts by treatment: the first drawn solid, others dashed.
        edges_deg: Edges of the rotation bins.
        threshold: Which of the thresholds.
        label: Of the y axis.
    """
    num_bins = len(edges_deg) - 1
    places = [float(k) for k in range(num_bins)]
    asked, lines = np.zeros(num_bins), []
    blind: list[float | None] = [None] * num_bins
    for k, (name, by_treatment) in enumerate(series[: recall_stores(series)]):
        for t, (treatment, counts) in enumerate(by_treatment.items()):
            table = dict(
                zip(RECALL_COUNTS, counts.by_rotation[:num_bins, threshold].T, strict=True)
            )
            shares = _shares(table["nearest"], table["possible"])
            style = "-" if t == 0 else "--"
            lines.append(Line(f"{name}, {treatment}", places, shares, style=style, color=k))
            if not lines[1:]:
                asked, blind = table["possible"], _shares(table["chance"], table["possible"])
    lines.append(Line("blind choice", places, blind, style=":", color=MOST_SERIES - 1))
    ticks = [
        (float(k), f"{edges_deg[k]:g} to {edges_deg[k + 1]:g}\nn = {int(n):,}")
        for k, n in enumerate(asked)
    ]
    x_label = "rotation between the two cameras, degrees"
    return lines_chart(lines, Axis(x_label, label, ticks, width_in=10.0, from_zero=True))


def recall_stores(series: Sequence[tuple[str, Mapping[str, RecallCounts]]]) -> int:
    """Return how many kinds of features the recall chart has room for, all treatments of each."""
    treatments = max((len(by_treatment) for _, by_treatment in series), default=1)
    return min(len(series), max((MOST_SERIES - 1) // treatments, 1))


def relation_chart(relations: Sequence[Relation], ranks: Mapping[str, int]) -> str:
    """Draw NOS against each score, one panel a score; names would overlap where points are many.

    Args:
        relations: The panels.
        ranks: By model: its number, drawn in place of its name in a panel of more than MOST_NAMED.
    """
    columns = min(len(relations), 2)
    rows = -(-len(relations) // columns)
    with _styled(_STYLE):
        figure = Figure(figsize=(5.2 * columns, 3.5 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for panel in axes.flat[len(relations) :]:
            panel.set_visible(False)
        for panel, relation in zip(axes.flat, relations, strict=False):
            _draw_relation(panel, relation)
        figure.draw_without_rendering()  # names are put where there is room on the finished page
        for panel, relation in zip(axes.flat, relations, strict=False):
            _name_points(panel, relation, ranks)
        return _svg(figure, "relation")


def _styled(style: dict[str, Any]) -> AbstractContextManager[None]:
    return mpl.rc_context(cast("Any", style))  # its type lists every key of matplotlib


def _draw_separation(axes: Axes, separation: Separation) -> None:
    """Draw both densities over an axis that holds 99.8 % of each."""
    edges = bin_edges(len(separation.matched))
    drawn = np.linspace(*_span(separation), 81)
    middle = (edges[1:] + edges[:-1]) / 2
    for counts, color, name in (
        (separation.other, _SERIES[1], "pairs that do not match"),
        (separation.matched, _SERIES[0], "matching pairs"),
    ):
        density = np.histogram(middle, drawn, weights=counts)[0] / max(counts.sum(), 1)
        axes.stairs(density, drawn, fill=True, color=color, alpha=0.35, lw=0)
        axes.stairs(density, drawn, color=color, lw=1.3, label=name)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.01)


def _span(separation: Separation) -> tuple[float, float]:
    """Return the smallest range that holds the middle 99.8 % of each distribution.

    Of both pooled it would be that of the others, which outnumber matching pairs a thousandfold.
    """
    edges = bin_edges(len(separation.matched))
    lows, highs = [], []
    for counts in (separation.matched, separation.other):
        if total := int(counts.sum()):
            first, last = np.searchsorted(np.cumsum(counts) / total, [0.001, 0.999])
            lows.append(float(edges[first]))
            highs.append(float(edges[min(last + 1, len(counts))]))
    low, high = min(lows, default=-1.0), max(highs, default=1.0)
    return low, max(high, low + 1e-6)


def _draw_relation(axes: Axes, relation: Relation) -> None:
    x = [point[1] for point in relation.points]
    y = [point[2] for point in relation.points]
    axes.scatter(x, y, s=34, color=_SERIES[0], zorder=3)
    axes.margins(x=0.1, y=0.18)
    axes.set_xlabel(relation.score)
    axes.set_ylabel("NOS")


def _name_points(axes: Axes, relation: Relation, ranks: Mapping[str, int]) -> None:
    """Put each name beside its point where it covers least of other names, points and edges."""
    numbered = len(relation.points) > MOST_NAMED
    taken = [_box_around(axes.transData.transform(point[1:])) for point in relation.points]
    for model, *at in relation.points:
        name = str(ranks[model]) if numbered else model
        drawn = [_named(axes, name, at, *place) for place in _NAME_PLACES]
        boxes = [note.get_window_extent() for note in drawn]
        hidden = [_hidden(box, taken, axes.bbox) for box in boxes]
        best = int(np.argmin(hidden))
        for note in (*drawn[:best], *drawn[best + 1 :]):
            note.remove()
        taken.append(boxes[best])


def _named(axes: Axes, name: str, at: Sequence[float], right: float, up: float) -> Annotation:
    align = "left" if right > 0 else "right" if right < 0 else "center"
    return axes.annotate(
        name,
        (at[0], at[1]),
        xytext=(right, up),
        textcoords="offset points",
        ha=align,
        va="center",
        in_layout=False,
    )


def _box_around(center: np.ndarray, radius_px: float = 4.0) -> Bbox:
    return Bbox([center - radius_px, center + radius_px])


def _hidden(box: BboxBase, taken: Sequence[BboxBase], page: BboxBase) -> float:
    """Return how much of a box lies under others or beyond the page, px^2."""
    covers = [Bbox.intersection(box, other) for other in taken]
    inside = Bbox.intersection(box, page)
    area = box.width * box.height
    outside = area - (inside.width * inside.height if inside else 0.0)
    return outside + sum(cover.width * cover.height for cover in covers if cover)


def _shares(hits: np.ndarray, asked: np.ndarray) -> list[float | None]:
    return [float(h / a) if a else None for h, a in zip(hits, asked, strict=True)]


def _filled(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _svg(figure: Figure, salt: str) -> str:
    """Return the drawing as SVG text without size, colours from the page."""
    out = StringIO()
    with _styled({"svg.hashsalt": salt}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    text = re.sub(r"font: (?:bold )?([\d.]+)px [^;\"]+", r"font: \1px var(--sans)", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    width = re.search(r'width="([\d.]+)pt"', text)
    wide = float(width.group(1)) if width else 500.0
    return re.sub(
        r'width="[\d.]+pt"', f'role="img" style="max-width:{wide:.0f}pt"', text, count=1
    ).replace('height="', 'data-height="', 1)
