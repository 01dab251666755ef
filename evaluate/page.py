"""The HTML page: charts, tables and sentences put into the template."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace

from vega3d.evaluate.figures import (
    MOST_SERIES,
    Axis,
    Line,
    lines_chart,
    recall_chart,
    recall_stores,
    relation_chart,
    separation_chart,
)
from vega3d.evaluate.findings import downstream_findings, findings
from vega3d.evaluate.matching import Separation
from vega3d.evaluate.panels import MOST_PANELS, ScenePanel, heat_gradient
from vega3d.evaluate.proof import Proof
from vega3d.evaluate.relations import Related
from vega3d.evaluate.sources import Source, some
from vega3d.evaluate.summary import Row, Summary
from vega3d.evaluate.sweeps import heat_maps
from vega3d.evaluate.tables import (
    DASH,
    Table,
    controls,
    count_table,
    counted,
    downstream_tables,
    interval_text,
    nos_ranks,
    recall_tables,
    score_rows,
)
from vega3d.pipeline.pages import page_of

MOST_BARRED = 4
"""Series of a chart up to which each carries its interval."""

MOST_LISTED = 60
"""Scenes named on the page; report.json names all."""


def render_page(summary: Summary, related: Related | None, panels: Sequence[ScenePanel]) -> str:
    """Return the page; it needs no network, no script and no other file."""
    page = SimpleNamespace(
        subtitle=_subtitle(summary),
        findings=findings(summary),
        notes=summary.notes,
        refused=summary.refused,
        rows=score_rows(summary),
        score_caption=f"Mean over scenes; below it the {interval_text(summary.config)}. "
        + _selection(summary),
        controls=controls(summary),
        separation=_separation(summary),
        separation_caption=_separation_caption(summary),
        taps=list(_tap_charts(summary.rows)),
        sweeps=list(heat_maps(summary)),
        recall=_recall(summary),
        recall_caption=_recall_caption(summary),
        recall_tables=recall_tables(summary),
        proof=_proof_table(summary.proofs, MOST_LISTED),
        panels=panels,
        panel_text=_panel_text(summary),
        heat_gradient=heat_gradient(),
        downstream=_downstream(related) if related else None,
        settings=_settings(summary),
        stores=[_store(source) for source in summary.comparison.sources],
        counts=count_table(summary),
        num_common=len(summary.common),
        common=_listed(summary.common),
        left_out=list(summary.left_out.items())[:MOST_LISTED],
        num_left_out=len(summary.left_out),
    )
    return page_of("vega3d.evaluate", "templates/report.html", page=page)


def _proof_table(proofs: Sequence[Proof], most: int) -> Table | None:
    """Return the reprojection error of each scene, the largest first; None where none is known."""
    worst: dict[str, float] = {}
    for proof in proofs:
        for scene_id, error_m in proof.reprojection_m.items():
            worst[scene_id] = max(error_m, worst.get(scene_id, 0.0))
    if not worst:
        return None
    wrong = {scene_id for proof in proofs for scene_id in proof.misread}
    scenes = sorted(worst, key=lambda scene_id: (scene_id not in wrong, -worst[scene_id]))
    rows = [("median", *(_shown(proof.median_m) for proof in proofs), "")]
    rows += [
        (
            scene_id,
            *(_shown(proof.reprojection_m.get(scene_id)) for proof in proofs),
            "read wrongly" if scene_id in wrong else "",
        )
        for scene_id in scenes[:most]
    ]
    more = f" {len(scenes) - most} scenes more are in report.json." if len(scenes) > most else ""
    return Table(
        ("scene", *(proof.label for proof in proofs), ""),
        tuple(rows),
        "Depth carried from each view into the next, against what is read there: the median "
        "distance of a scene, as noted when it was extracted. Millimetres where poses, intrinsics "
        "and depth are what they are taken for. A dash: no depth or poses, imported features, or a "
        f"store of an older version.{more}",
    )


def _shown(error_m: float | None) -> str:
    if error_m is None:
        return DASH
    return f"{error_m * 1000:.1f} mm" if error_m < 0.1 else f"{error_m:.2f} m"


def _subtitle(summary: Summary) -> str:
    config = summary.config
    return (
        f"{counted(len(summary.rows), 'kind')} of features, "
        f"{counted(len(summary.common), 'scene')}, voxels of "
        f"{100 * config.voxel_m:g} cm, settings {config.digest}"
    )


def _separation(summary: Summary) -> str | None:
    rows = [row for row in summary.best_rows if row.separation][:MOST_SERIES]
    columns: list[tuple[str, list[tuple[str, Separation]]]] = []
    for treatment in summary.config.score.matching_treatments:
        held = [(row.name, row.separation[treatment]) for row in rows]
        if held:
            columns.append((treatment, held))
    return separation_chart(columns) if columns else None


def _separation_caption(summary: Summary) -> str:
    errors = [
        separation.auroc_error or 0.0
        for row in summary.rows
        for separation in row.separation.values()
    ]
    return (
        "Cosines of cells in one voxel (matching) and of all other cells of the same two views, "
        "pooled over scenes; each curve has area one and the axis holds the middle 99.8 % of each. "
        "The AUROC "
        f"here is the pooled one; {summary.config.score.histogram_bins} bins move it by "
        f"{max(errors, default=0.0):.4f} at most. {_drawn(summary, MOST_SERIES)}"
    )


def _drawn(summary: Summary, most: int) -> str:
    """Say which stores a picture shows, and by which tap."""
    num = len(summary.best_rows)
    told = "" if num <= most else f"Drawn: {most} of {num} stores, best first. "
    if num < len(summary.rows):
        told += "Each store is drawn by its best tap above chance."
    return told.strip()


def _selection(summary: Summary) -> str:
    """Say that the best tap of a store was selected, where it was."""
    taps = {row.source.label: len(row.source.taps) for row in summary.rows}
    several = [f"{label}: best of {num} taps" for label, num in taps.items() if num > 1]
    if not several:
        return ""
    return (
        "Where one row stands for a store it was selected as the best above chance on these same "
        f"scenes ({some(several)}), which favours stores with many taps."
    )


def _tap_charts(rows: Sequence[Row]) -> Iterable[tuple[str, str]]:
    """Draw above chance against block and against timestep, where a store has several."""
    for axis, other, x_label in (
        ("block", "timestep", "block, from 0"),
        ("timestep", "block", "timestep k (sigma = k / 1000)"),
    ):
        lines = []
        for label in dict.fromkeys(row.source.label for row in rows):
            held = [row for row in rows if row.source.label == label]
            for value in sorted({getattr(row, other) for row in held} - {None}):
                same = [r for r in held if getattr(r, other) == value]
                placed = sorted(
                    ((getattr(r, axis), r) for r in same if getattr(r, axis) is not None),
                    key=lambda pair: int(pair[0]),
                )
                if len(placed) > 1:
                    lines.append(_tap_line(f"{label}, {other} {value}", placed))
        if lines:
            ticks = [(x, f"{x:g}") for x in sorted({x for line in lines for x in line.x})]
            crowded = len(lines) > MOST_BARRED
            told = "Bars: intervals over scenes." if not crowded else "Intervals: see the table."
            if crowded:
                lines = [replace(line, low=(), high=()) for line in lines]
            if len(lines) > MOST_SERIES:
                told += f" Drawn: {MOST_SERIES} of {len(lines)} series."
            yield lines_chart(lines, Axis(x_label, "consistency above chance", ticks)), told


def _tap_line(name: str, placed: Sequence[tuple[int, Row]]) -> Line:
    found = [row.estimates["above_chance"] for _, row in placed]
    return Line(
        name,
        [float(x) for x, _ in placed],
        [estimate.mean for estimate in found],
        [estimate.low for estimate in found],
        [estimate.high for estimate in found],
    )


def _recall(summary: Summary) -> str | None:
    series = [(row.name, row.recall) for row in summary.best_rows if row.recall]
    if not series:
        return None
    score = summary.config.score
    middle = len(score.recall_m) // 2
    label = f"recall within {100 * score.recall_m[middle]:g} cm"
    return recall_chart(series, score.rotation_edges_deg, middle, label)


def _recall_caption(summary: Summary) -> str:
    series = [(row.name, row.recall) for row in summary.best_rows if row.recall]
    unknown = [
        int(counts.by_rotation[-1, 0, 0]) for row in summary.rows for counts in row.recall.values()
    ]
    told = f" {unknown[0]:,} queries have no known pose." if unknown and unknown[0] else ""
    return (
        "Nearest neighbour by rotation between the two cameras; n is the number of queries. "
        f"{_drawn(summary, recall_stores(series))}{told}"
    )


def _panel_text(summary: Summary) -> str:
    return (
        "Neighbouring views from the middle of each scene. Joint PCA: one colour means one thing "
        "in all views of the scene. Below it each token's cosine with the next view's cell of its "
        "voxel, put between the scene's random-pair mean (0) and 1, so that all kinds of features "
        "share one scale; the last view of a scene is compared with the one before it. "
        f"{_drawn(summary, MOST_PANELS)}"
    )


def _downstream(related: Related) -> SimpleNamespace:
    chart = None
    if related.relations:
        chart = relation_chart(related.relations, nos_ranks(related))
    return SimpleNamespace(
        title=related.results.title,
        source=related.results.source,
        findings=list(downstream_findings(related)),
        chart=chart,
        tables=downstream_tables(related),
    )


def _settings(summary: Summary) -> list[tuple[str, str]]:
    config, score = summary.config, summary.config.score
    anchor = {
        "origin": "the world's origin",
        "minimum": "the smallest coordinate of the tokens compared",
    }[score.anchor]
    pairs = {
        "all": "every two views; macro means are over voxels",
        "adjacent": "neighbouring views only; macro means are over view pairs",
    }[score.pairs]
    place = "median over its pixels with depth" if config.position == "median" else "central pixel"
    return [
        ("settings digest", config.digest),
        ("voxel", f"{config.voxel_m:g} m, counted from {anchor}"),
        ("views compared", pairs),
        (
            "valid token",
            f"at least {config.min_depth_share:g} of its pixels have depth, position and "
            f"features are finite; its position: {place}",
        ),
        ("treatments", ", ".join(score.treatments) + "; each starts from tokens of length one"),
        ("trimmed channels", f"{score.trim_channels}, never more than half"),
        (
            "AUROC and recall",
            f"{', '.join(score.matching_treatments)}; at most {score.matching_view_pairs} view "
            f"pairs a scene; {score.histogram_bins} bins of cosine, equal in the distance of unit "
            "vectors",
        ),
        ("recall within", ", ".join(f"{100 * t:g} cm" for t in score.recall_m)),
        ("rotation bins", _edges(score.rotation_edges_deg) + " degrees, upper edges included"),
        (
            "overlap bins",
            f"{_edges(score.overlap_edges)}, upper edges included; share of a view's valid tokens "
            f"with a token of the other view within {100 * score.overlap_m:g} cm",
        ),
        ("intervals", interval_text(config)),
        (
            "arithmetic",
            "unit tokens in float32 (float64 when the store is), every sum in float64; two passes "
            "over the features, since treatments need the sums over the other scenes first",
        ),
    ]


def _edges(edges: Sequence[float]) -> str:
    return ", ".join(f"{edge:g}" for edge in edges)


def _store(source: Source) -> list[tuple[str, str]]:
    told = [("store", source.label), ("location", ", ".join(source.urls))]
    hidden = {"grid", "blocks", "timesteps"}
    config = {k: v for k, v in dict(source.config).items() if k not in hidden}
    told += [("config", ", ".join(f"{key} {value}" for key, value in config.items()))]
    rows, cols = source.grid
    widths = sorted(set(source.channels.values()))
    told.append(("tokens", f"{rows} x {cols} of {', '.join(map(str, widths))} channels"))
    told.append(("taps", ", ".join(source.taps)))
    if source.second:
        told.append(("second noise sample of", ", ".join(source.second)))
    if source.identity.get("weights_sha256"):
        told.append(("weights sha256", str(source.identity["weights_sha256"])))
    told += [("config digest", source.config_digest), ("digest", source.digest)]
    return told


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more
