"""Bins, pictures, charts, and what a command loads."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from vega3d.evaluate.cells import Tokens, find_cells, shared_cells
from vega3d.evaluate.config import ReportConfig, RunConfig, ScoreConfig
from vega3d.evaluate.downstream import Relation
from vega3d.evaluate.figures import (
    Axis,
    Line,
    _span,
    lines_chart,
    recall_chart,
    recall_stores,
    relation_chart,
)
from vega3d.evaluate.fused_pairs import bin_of
from vega3d.evaluate.intervals import Correlation
from vega3d.evaluate.matching import ONE_BIN, RecallCounts, Separation, bin_edges, bin_index
from vega3d.evaluate.panels import adjacent_heat
from vega3d.evaluate.sources import split_label, tap_numbers
from vega3d.evaluate.treatments import ChannelSums, treat


def test_bins_hold_their_upper_edge_and_nan_is_the_bin_after() -> None:
    edges = (0.0, 15.0, 30.0, 60.0, 180.0)
    values = np.array([0.0, 15.0, 15.1, 60.0, 180.0, 200.0, np.nan])
    assert bin_index(values, edges).tolist() == [0, 0, 1, 2, 3, 3, 4]


def test_histogram_bins_rise_with_the_cosine_and_lie_between_their_edges() -> None:
    edges = bin_edges(64)
    assert (edges[0], edges[-1]) == (-1.0, 1.0)
    cosine = np.linspace(-1, 1, 999)
    found = np.array([bin_of(one, ONE_BIN, 64) for one in cosine])
    assert np.all(np.diff(found) >= 0)
    assert (found[0], found[-1]) == (0, 63)
    assert np.all(cosine <= edges[found + 1] + 1e-9)
    assert np.all(cosine >= edges[found] - 2e-6)  # cosines within 1e-6 of 1 are alike


def test_rounding_errors_of_one_are_alike() -> None:
    for one in np.array([1.0, 1.0 + 2.4e-7, 1.0 - 2.4e-7], dtype=np.float32):
        assert bin_of(float(one), ONE_BIN, 8192) == 8191


def test_auroc_by_hand() -> None:
    # matched: one in bin 1, one in bin 2; other: one in bin 0, one in bin 1
    separation = Separation(np.array([0, 1, 1]), np.array([1, 1, 0]))
    # (1 beats 0) + half of (1 ties 1) + (2 beats 0) + (2 beats 1), of 4
    assert separation.auroc == pytest.approx(3.5 / 4)
    assert separation.auroc_error == pytest.approx(0.5 / 4)
    both = separation + separation
    assert both.auroc == pytest.approx(3.5 / 4)
    assert Separation(np.zeros(3, int), np.ones(3, int)).auroc is None


def test_shared_cells_keep_their_tokens() -> None:
    xyz = np.array([[0.05, 0, 0], [0.95, 0, 0], [0.06, 0, 0], [0.07, 0, 0]])
    view = np.array([0, 0, 1, 1])
    cells = find_cells(xyz, view, 0.1, "origin")
    assert cells.token_voxel().tolist() == [0, 1, 0, 0]
    shared = shared_cells(cells)
    assert shared.voxel.tolist() == [0, 0]
    assert shared.view.tolist() == [0, 1]
    assert shared.order.tolist() == [0, 2, 3]
    assert shared.starts.tolist() == [0, 1, 3]


def test_channels_that_do_not_vary_are_dropped_by_standardising() -> None:
    sums = ChannelSums(4, np.array([2.0, 0.0]), np.array([1.0, 1.0]))  # channel 0 is always 0.5
    rows = treat(np.array([[0.5, 0.5], [0.5, -0.5]]), "standardised", sums, 8)
    assert rows.tolist() == [[0.0, 1.0], [0.0, -1.0]]


def test_heat_is_the_cosine_with_the_next_view_and_the_last_looks_back() -> None:
    # views 0, 1, 2 see the voxel at the origin with (1, 0), (0.6, 0.8), (0, 1)
    unit = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])
    xyz = np.array([[0.05, 0, 0], [0.05, 0, 0], [0.05, 0, 0], [5.0, 0, 0]])
    tokens = Tokens(unit, xyz, np.array([0, 1, 2, 2]), np.array([0, 1, 0, 1]), 3)
    heat = adjacent_heat(tokens, (1, 2), ReportConfig())
    np.testing.assert_allclose(heat[:, 0], [[0.6, np.nan], [np.nan, 0.8], [0.8, np.nan]])


def test_charts_take_their_colours_from_the_page() -> None:
    line = Line("<wan> & co", [0.0, 1.0], [0.1, None], [0.0, None], [0.2, None])
    chart = lines_chart([line], Axis("block", "above chance", [(0.0, "0"), (1.0, "20")]))
    assert chart.startswith("<svg")
    assert "var(--series-0)" in chart
    assert "&lt;wan&gt; &amp; co" in chart
    assert "#0102" not in chart
    assert not re.search(r"fill: #(?!none)", chart)
    assert chart == lines_chart([line], Axis("block", "above chance", [(0.0, "0"), (1.0, "20")]))


def test_names_of_near_points_do_not_overlap() -> None:
    nothing = Correlation(None, None, None, None, 3, 0)
    points = (("alpha", 0.5, 0.50), ("beta", 0.5, 0.501), ("gamma", 0.9, 0.9))
    relation = Relation(score="s", points=points, pearson=nothing, spearman=nothing)
    chart = relation_chart([relation], {})
    places = {
        name: float(y)
        for y, name in re.findall(r'y="([-\d.]+)"[^>]*>(alpha|beta|gamma)</text>', chart)
    } or {
        name: float(y)
        for y, name in re.findall(
            r"translate\([-\d.]+ ([-\d.]+)\)\"[^>]*>(alpha|beta|gamma)</text>", chart
        )
    }
    assert len(places) == 3
    assert abs(places["alpha"] - places["beta"]) > 8


def test_many_points_carry_the_number_of_their_model() -> None:
    nothing = Correlation(None, None, None, None, 7, 0)
    points = tuple((f"model-{k}", 0.5 + k / 100, 0.5) for k in range(7))
    relation = Relation(score="s", points=points, pearson=nothing, spearman=nothing)
    chart = relation_chart([relation], {f"model-{k}": 71 + k for k in range(7)})
    assert "model-" not in chart
    assert all(f">{71 + k}</text>" in chart for k in range(7))


def test_the_axis_of_the_distributions_holds_both_however_few_match() -> None:
    matched, other = np.zeros(1000, dtype=np.int64), np.zeros(1000, dtype=np.int64)
    other[500], matched[900] = 10**7, 50  # pooled, the matching ones are 0.0005 % of all
    low, high = _span(Separation(matched, other))
    edges = bin_edges(1000)
    assert low == edges[500]
    assert high == edges[901]
    assert _span(Separation(matched, 0 * other)) == (edges[900], edges[901])


def test_the_recall_chart_cuts_whole_stores() -> None:
    counts = RecallCounts(np.ones((5, 3, 5)), np.ones((4, 3, 5)))
    both = {"raw": counts, "centred": counts}
    series = [(f"store-{k}", both) for k in range(5)]
    assert recall_stores(series) == 3
    chart = recall_chart(series, (0.0, 15.0, 30.0, 60.0, 180.0), 1, "recall")
    drawn = re.findall(r">(store-\d, \w+)</text>", chart)
    assert drawn == [f"store-{k}, {name}" for k in range(3) for name in both]


def test_taps_and_labels() -> None:
    assert tap_numbers("k300_b20") == (20, 300)
    assert tap_numbers("b-2") == (-2, None)
    assert tap_numbers("pixels") == (None, None)
    assert split_label("wan=s3://bucket/a=b") == ("wan", "s3://bucket/a=b")
    assert split_label("/data/k=3/store") == (None, "/data/k=3/store")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScoreConfig(treatments=("centred",)), "treatments must hold raw"),
        (lambda: ScoreConfig(treatments=("raw",)), "among `treatments`, got centred too"),
        (lambda: ScoreConfig(recall_m=(0.0,)), "recall_m and overlap_m must be positive"),
        (lambda: ScoreConfig(overlap_edges=(0.0, 0.5, 0.5)), "two or more rising numbers"),
        (lambda: ReportConfig(min_depth_share=0.0), r"must lie in \(0, 1\]"),
        (lambda: ReportConfig(voxel_m=float("nan")), "voxel_m must be a positive number"),
        (lambda: RunConfig(views_shown=1), "views_shown >= 2"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(make, message: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=message):
        make()


HEAVY = ["numpy", "torch", "ray", "zarr", "jaxtyping", "dask", "matplotlib", "jinja2", "PIL"]


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import json, sys
from vega3d.evaluate.cli import main
sys.argv = ["vega3d-consistency", "report", "--help"]
try:
    main()
except SystemExit as done:
    assert not done.code
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert "--dask-address" in done.stdout
