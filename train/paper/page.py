"""The page of a desk paper: tables, maps and sentences put into the template."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from vega3d.pipeline.pages import page_of
from vega3d.train.paper.maps import MEASURES
from vega3d.train.paper.questions import QUESTIONS

_TEMPLATE = "paper.html.j2"
Cell = dict[str, Any]


def write_page(paper: Mapping[str, Any]) -> str:
    """Return the page; it needs no network, no script and no other file."""
    config, streams, fusions = paper["config"], paper["streams"], paper["fusions"]
    return page_of(
        "vega3d.train.paper",
        _TEMPLATE,
        config=config,
        findings=paper["findings"],
        questions=QUESTIONS,
        scores=[(name, _cells(found)) for name, found in streams["scores"].items()],
        differences=[
            (f"{line['better']} - {line['than']}", _cells(line["found"], signed=True))
            for line in streams["differences"]
        ],
        fusion_rows=fusions["rows"],
        fusion_cells={row["variant"]: _cell(row["score"]) for row in fusions["rows"]},
        fusion_differences={
            line["than"]: _cell(line["found"]["score"], signed=True)
            for line in fusions["differences"]
        },
        fusion_note=fusions["split"],
        fusion_tasks=fusions["tasks"],
        maps=list(_maps(paper["maps"])),
        map_scenes=paper["maps"]["scenes"],
        timesteps=paper["maps"]["timesteps"],
        relations=paper["relations"]["relations"],
        sources=paper["relations"]["sources"],
        chart=Markup(paper["relations"]["chart"]),  # ours: drawn by evaluate/figures.py
        digests=paper["stores"],
    )


def _cells(found: Mapping[str, Any], *, signed: bool = False) -> list[Cell | None]:
    return [_cell(found[q], signed=signed) if q in found else None for q in QUESTIONS]


def _cell(found: Mapping[str, Any], *, signed: bool = False) -> Cell:
    form = "{:+.3f}" if signed else "{:.3f}"
    ends = [found["low"], found["high"]]
    return {
        "mean": form.format(found["mean"]),
        "interval": "" if None in ends else " to ".join(form.format(end) for end in ends),
        "verdict": found.get("verdict", ""),
    }


def _maps(maps: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each measure's table: a row a block, last first, as networks are drawn."""
    for name, told in MEASURES.items():
        found = maps["maps"][name]
        means = {(cell["block"], cell["timestep"]): cell["mean"] for cell in found["cells"]}
        low, high = min(means.values()), max(means.values())
        best = found["best"]["block"], found["best"]["timestep"]
        yield {
            "title": told,
            "rows": [
                (block, [_map_cell(means, (block, k), low, high, best) for k in maps["timesteps"]])
                for block in reversed(maps["blocks"])
            ],
        }


def _map_cell(
    means: Mapping[tuple[int, int], float],
    place: tuple[int, int],
    low: float,
    high: float,
    best: tuple[int, int],
) -> Cell:
    if place not in means:
        return {"text": "", "heat": 0, "best": False}
    heat = 100 * (means[place] - low) / (high - low) if high > low else 100.0
    return {"text": f"{means[place]:.3f}", "heat": round(heat), "best": place == best}
