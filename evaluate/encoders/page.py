"""The two tables of a comparison, as a page, as text and as plain values."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from vega3d.evaluate.encoders.choosing import Chosen
from vega3d.evaluate.encoders.compared import Compared
from vega3d.evaluate.findings import findings, tells_position
from vega3d.evaluate.intervals import Estimate
from vega3d.evaluate.probes.measures import QUESTIONS, Question
from vega3d.evaluate.probes.summary import ProbeRow
from vega3d.evaluate.tables import cell, counted, number
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.pages import page_of

_SCORES = (
    ("above_chance", "above chance"),
    ("consistency", "raw cosine"),
    ("position_above_chance", "same position, above chance"),
    ("auroc", "AUROC"),
    ("recall_10cm", "recall, 10 cm"),
)
"""Metric of a report -> its column."""


def write_page(
    folder: Path,
    found: Sequence[Compared],
    chosen: Sequence[Chosen],
    refused: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write encoders.html, which needs no other file, and return where it is.

    Args:
        folder: Where it is written.
        found: What was found at each place.
        chosen: The encoders.
        refused: Place of which nothing can be compared -> why.
    """
    page = SimpleNamespace(
        places=[_place(one, chosen) for one in found],
        refused=list(refused.items()),
        untrained=[one.label for one in chosen if one.untrained],
        trained=[(o.label, o.weights) for o in chosen if o.config.parts and not o.untrained],
        scores=[title for _, title in _SCORES],
        questions=[q for q in QUESTIONS if any(q in _asked(one) for one in found)],
        versions=", ".join(f"{name} {version(name)}" for name in ("vega3d", "torch")),
    )
    html = folder / "encoders.html"
    text = page_of("vega3d.evaluate", "templates/encoders.html", page=page)
    write_whole(html, text.encode())
    return html


def plain_values(
    found: Sequence[Compared],
    chosen: Sequence[Chosen],
    refused: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return both tables as JSON values; a number that does not exist is null."""
    return {
        "encoders": {
            one.label: {
                "backbone": one.config.name,
                "classes": one.config.classes,
                "weights": one.weights,
                "random_weights": one.untrained,
            }
            for one in chosen
        },
        "refused": dict(refused),
        "places": {
            one.name: {
                "scenes": one.scenes,
                "num_scenes": len(one.summary.common),
                "failed": dict(one.failed),
                "consistency": [
                    {
                        "store": row.source.label,
                        "tap": row.tap,
                        "tells_position": tells_position(row),
                        **{name: _interval(row.estimates.get(name)) for name, _ in _SCORES},
                    }
                    for row in one.summary.rows
                ],
                "probe": [
                    {
                        "store": row.label,
                        "tap": row.tap,
                        **{
                            question.name: _interval(row.scores.get(("ridge", question.name)))
                            for question in _asked(one)
                        },
                    }
                    for row in _probe_rows(one)
                ],
            }
            for one in found
        },
    }


def as_text(found: Sequence[Compared], chosen: Sequence[Chosen]) -> Iterator[str]:
    """Yield both tables of each place as lines."""
    weights = {one.label: one.weights for one in chosen}
    for one in found:
        asked = _asked(one)
        yield f"{one.name}: {counted(len(one.summary.common), 'scene')}, consistency"
        heads = [title for _, title in _SCORES]
        lines = [["encoder", "tap", *heads, "weights"]]
        for row in one.summary.rows:
            means = [number(row.mean(name)) for name, _ in _SCORES]
            lines.append([row.source.label, row.tap, *means, weights[row.source.label]])
        yield from _columns(lines)
        if one.probed is None:
            yield f"{one.name}: fewer than two scenes, nothing to fit probes on"
            continue
        yield f"{one.name}: what a ridge reads of other scenes, R2 (accuracy of classes)"
        lines = [["encoder", "tap", *(question.title for question in asked)]]
        for read in _probe_rows(one):
            estimates = [read.scores.get(("ridge", question.name)) for question in asked]
            means = [number(None if found is None else found.mean) for found in estimates]
            lines.append([read.label, read.tap, *means])
        yield from _columns(lines)


def _columns(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    for line in lines:
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _place(one: Compared, chosen: Sequence[Chosen]) -> SimpleNamespace:
    """Return what the page says of one place."""
    by_label = {encoder.label: encoder for encoder in chosen}
    return SimpleNamespace(
        name=one.name,
        scenes=one.scenes,
        told=counted(len(one.summary.common), "scene"),
        findings=findings(one.summary),
        controls=_controls(one),
        failed=list(one.failed.items()),
        scored=[
            SimpleNamespace(
                label=row.source.label,
                tap=row.tap,
                encoder=by_label[row.source.label],
                position=tells_position(row),
                cells=[cell(row.estimates.get(name)) for name, _ in _SCORES],
                bar=_bar(row.mean("above_chance")),
            )
            for row in one.summary.rows
        ],
        read=[
            SimpleNamespace(
                label=row.label,
                tap=row.tap,
                control=row.control,
                encoder=by_label.get(row.label),
                scores={name: cell(found) for (by, name), found in row.scores.items()
                        if by == "ridge"},
            )
            for row in _probe_rows(one)
        ],
    )  # fmt: skip


def _controls(one: Compared) -> list[str]:
    """Say whether the controls did what a control must."""
    told = []
    for row in one.summary.rows:
        name = str(row.source.config.get("backbone"))
        found = row.estimates.get("above_chance")
        if name == "random" and found is not None and found.mean is not None:
            inside = found.low is None or found.high is None or found.low <= 0 <= found.high
            told.append(
                f"{row.name} has {number(found.mean)} above chance, "
                + (
                    "0 within its interval, as noise must."
                    if inside
                    else f"and its interval ({number(found.low)} to {number(found.high)}) leaves "
                    "0 out: look at what else these scenes' tokens share."
                )
            )
        if name == "position":
            named = "is named as image position." if tells_position(row) else "is NOT named so."
            told.append(f"{row.name}, which knows image position alone, {named}")
    return told


def _probe_rows(one: Compared) -> list[ProbeRow]:
    """Return the probe's rows, those without features first, then in the order of the report."""
    if one.probed is None:
        return []
    order = {(row.source.label, row.tap): k for k, row in enumerate(one.summary.rows)}
    last = len(order)
    return sorted(
        one.probed.rows,
        key=lambda row: -1 if row.control else order.get((row.label, row.tap), last),
    )


def _asked(one: Compared) -> list[Question]:
    names = [] if one.probed is None else one.probed.questions
    return [question for question in QUESTIONS if question.name in names]


def _bar(share: float | None) -> float | None:
    return None if share is None else round(100 * min(max(share, 0.0), 1.0), 1)


def _interval(found: Estimate | None) -> Mapping[str, float | None]:
    if found is None:
        return {"mean": None, "low": None, "high": None}
    return {"mean": found.mean, "low": found.low, "high": found.high}
